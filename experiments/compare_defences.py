"""The former name of `experiments.compare_mechanisms`, which it runs.

python -m experiments.compare_defences --out=runs/mechanisms
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("experiments.compare_mechanisms", run_name="__main__", alter_sys=True)
