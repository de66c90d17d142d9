"""The demo as a program of one's own: emulated boards and a Linux device learn digits together."""

import sys
from pathlib import Path

import kilofed


def show(event: kilofed.RunEvent) -> None:
    record = getattr(event, "record", None)
    if isinstance(record, kilofed.RoundRecord) and record.accuracy is not None:
        print(f"round {record.number}: {100 * record.accuracy:.1f} %, {len(record.taken)} devices")


folder = Path(sys.argv[1])
boards = ["mps2-an386"] * 4 + ["microbit", "pi"]
places = kilofed.make_places(kilofed.digits_pool(), boards, samples=200)
config = kilofed.RunConfig(rounds=20, epochs=5)
model = kilofed.digits_model_path()
kilofed.run(folder, places, model=model, config=config, test=kilofed.digits_test(), observers=[show])
accuracy = kilofed.read_report(folder)["accuracy"]
print(f"alone {accuracy['alone']}, together {accuracy['federated']}: {folder / 'model.tflite'}")
