"""The protocols of the server: each turns the bytes of one protocol into calls, and answers back."""
