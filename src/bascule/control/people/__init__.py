"""People who sign in: sessions, cookies, and identity providers."""
