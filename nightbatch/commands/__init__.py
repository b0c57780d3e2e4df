"""One module for each subcommand: its flags, what it prints, its exit code. What it does lives a level up."""
