"""Who may do what, and how often: token, session, origin, headers, sizes, rates."""
