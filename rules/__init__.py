"""What is protected, from whom, for how long: the rules, the lexer, the catalog snapshot, the analysis and the decision."""
