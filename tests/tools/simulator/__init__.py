"""A simulator: the real client on virtual time, against a model of the API that keeps the truth.

    python -m tests.tools.simulator --waits 100000 --seed 1

Everything that the API's document leaves open is a setting of the model, drawn from the seed. Each end of a wait is
judged against the truth: right, too early, missed, too late, a wrong error.
"""
