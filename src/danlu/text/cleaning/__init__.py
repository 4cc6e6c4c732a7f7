"""What `clean` is made of: column files, the tasks that measure, decide and write, and gathering across records."""
