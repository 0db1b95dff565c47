"""The catalog follows DDL: kinds of change, at every moment of a conversation, by everybody, on real servers."""
