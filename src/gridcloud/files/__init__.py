"""What programs read and write shares with: the file system ``share://``, its cache, transfers."""
