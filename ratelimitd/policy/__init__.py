"""Where the limits come from. A bad policy never replaces a good one."""
