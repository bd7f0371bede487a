"""A Greengrass core for a laptop and for CI: IPC, nucleus, stream manager, AWS endpoints. See README.md."""
