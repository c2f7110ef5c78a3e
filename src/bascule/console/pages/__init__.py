"""The pages: one module each, with its routes and its view, a pure function of facts."""
