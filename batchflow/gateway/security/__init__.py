"""Who may do what, and how often: token, cookie, origin, headers, sizes, rates."""
