"""Files that workers read and write, and the bytes they transfer."""
