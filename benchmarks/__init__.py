"""One file per claim of the README's performance table; files with an underscore in their name are what they share."""
