"""All that an operator can do. The command line and the admin service are two thin faces of it."""
