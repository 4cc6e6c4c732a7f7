"""Personal data: found by form, checksum, dictionary and context; replaced by pseudonyms, masked or removed."""
