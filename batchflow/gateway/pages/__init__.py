"""The status page, rendered on the server and kept up to date by a script."""
