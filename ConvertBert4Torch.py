"""Turn a checkpoint of google-research/bert into a folder that transformers and ModifiedModelingBert.py load."""

from pathlib import Path

from pruner import run_script


def main() -> None:
    from pruner.models.google import GELU
    from pruner.utils.flags import Parser

    parser = Parser(__doc__)
    add = parser.add_argument
    add("--tf_checkpoint_path", required=True, type=Path, help="the checkpoint's prefix, as bert/bert_model.ckpt")
    add("--bert_config_file", required=True, type=Path, help="its bert_config.json, with vocab.txt beside it")
    add("--pytorch_dump_path", required=True, type=Path, help="where the weights go, .bin or .safetensors")
    add("--gelu", choices=tuple(GELU), default="tanh", help="the form that it was trained with (default: tanh)")
    add("--force", action="store_true", help="replace files that are there already")
    args = parser.parse_args()
    from pruner.models.convert import convert  # in here: --help needs no NumPy

    convert(args)


if __name__ == "__main__":
    run_script(main)
