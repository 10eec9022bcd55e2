"""The panel as a browser without scripts sees it, over a real store."""
