"""Policies: from the text that an operator writes to the PolicySet that decisions use. Pure: no I/O."""
