"""What was missed: gaps, and reading them back."""
