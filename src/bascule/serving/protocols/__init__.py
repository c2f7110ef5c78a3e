"""The protocols of the server: each turns the bytes of a request into a call, and answers back."""
