"""COPY of sealed and masked columns, against real servers."""
