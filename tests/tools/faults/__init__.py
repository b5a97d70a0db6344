"""The table of DESIGN.md's *What is sent, and what is sent again*: every call against every fault, on real sockets."""
