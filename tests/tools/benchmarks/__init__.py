"""What the client costs, as ratios to its peers' cost in the same run, beside the goals.

    python -m tests.tools.benchmarks [--quick] [--only WORK] [--images FOLDER]

The servers run in processes of their own, so that their work is not counted. Nothing of it is asserted in the tests.
"""
