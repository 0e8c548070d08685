"""Print a study at a scale, with its file, as JSON: python -m workflow.scripts.study STUDY SCALE"""

from __future__ import annotations

import json
import sys

from s2pg.config import ConfigError
from s2pg.study import load_study


def main() -> None:
    name, scale = sys.argv[1:]
    try:
        study = load_study(name)
        cases = study.scale(scale)["cases"]
    except ConfigError as error:
        sys.exit(f"{error}")
    print(json.dumps({"study": name, "scale": scale, "cases": cases, "spec": study.spec}, indent=1))


if __name__ == "__main__":
    main()
