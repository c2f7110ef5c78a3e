"""The API for programs and the console: what is the same for every route, and the application."""
