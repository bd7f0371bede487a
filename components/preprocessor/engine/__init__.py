"""What every flow is made of: blocks of samples, tags, steps, and the pipeline that they make. No I/O, no clock."""
