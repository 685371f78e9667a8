"""The status page: rendered here, kept up to date by a few lines of JavaScript."""
