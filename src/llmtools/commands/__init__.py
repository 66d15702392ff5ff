"""One file per subcommand: parse flags, call one library function, print."""
