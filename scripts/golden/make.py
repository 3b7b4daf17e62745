"""Makes tests/golden/ anew, but for gguf/ and import/: the checkpoints (models.py), the losses (losses.py, online.py)
and the chat templates (templates.py)."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import losses  # noqa: E402
import models  # noqa: E402
import online  # noqa: E402
import templates  # noqa: E402
import transformers  # noqa: E402

if __name__ == "__main__":
    transformers.logging.disable_progress_bar()
    models.main()
    losses.main()
    online.main()
    templates.main()
    # gguf/ is made by gguf_files.py, which needs llama.cpp; import/ by import_files.py, which needs polars.
    made = (path for path in models.GOLDEN.rglob("*") if path.is_file())
    files = sorted(path for path in made if not {"gguf", "import"} & set(path.relative_to(models.GOLDEN).parts))
    for path in files:
        print(f"{path.stat().st_size:8}  {path.relative_to(models.GOLDEN)}")
    total = sum(path.stat().st_size for path in files)
    print(f"{total:8}  in all")
    assert total < 3_000_000
