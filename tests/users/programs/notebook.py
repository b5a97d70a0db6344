"""Cells of a notebook, run by Jupyter's own kernel: top-level await, and one client over many cells."""

from __future__ import annotations

import json
import sys
import warnings

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

CELLS = [
    "from trooper_async import TrooperClient, PollSchedule, select",
    "trooper = TrooperClient(poll=PollSchedule(floor=0.05, cap=1.0))",
    "orders = await trooper.orders.list()\nlen(orders)",
    "server = await trooper.orders.stop_and_wait(orders[0], timeout=60)\nprint(server.current_status)",
    "import asyncio\nawait asyncio.gather(*(trooper.orders.start_and_wait(o, timeout=60) for o in orders)) and None",
    "print(len(select(await trooper.orders.list(), status='running')))",
    "await trooper.close()",
]

warnings.simplefilter("ignore", ResourceWarning)  # Jupyter's own sockets; the notebook's warnings are in its outputs
source = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
source["cells"] = [
    {"cell_type": "code", "id": f"cell-{at}", "metadata": {}, "outputs": [], "execution_count": None, "source": cell}
    for at, cell in enumerate(CELLS)
]
notebook = nbformat.reads(json.dumps(source), as_version=4)  # type: ignore[no-untyped-call]  # of Jupyter
kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")
NotebookClient(notebook, km=kernel, timeout=120).execute(cleanup_kc=True)
for cell in notebook.cells:
    for output in cell.outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        print(f"{output.output_type}: {text.strip()}")
        if output.output_type == "stream" and output.name == "stderr":
            sys.exit("the notebook complained")
