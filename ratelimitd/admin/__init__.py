"""HTTP for operators: an API, a panel, and what monitoring asks. It takes no part in a decision."""
