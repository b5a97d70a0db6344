"""The retry table of `trooper_async._http`, proven: every call against every fault, on real sockets."""
