"""A table of what users get wrong: one line on standard error that names it, exit code 1 or 2, and no traceback."""

import re
import shlex
from pathlib import Path

import pytest

import hf_latent.cli as cli

FILES = {
    "broken.json": '{"a": 1,\n "b": }',
    "list.json": "[1, 2]",
    "empty.json": "",
    "latin.json": b'{"a": "\xe9"}',
    "broken.yaml": "a: 1\nb: [1, 2\nc: 3\n",
    "list.yaml": "- 1\n- 2\n",
    "empty.yaml": "",
    "binary.yaml": b"\xff\xfe\x00\x01",
    "typo.yaml": "task: sudoku\noutput_dir: out\nmax_stpes: 3\n",
    "number.yaml": "task: sudoku\noutput_dir: out\nmax_steps: [3]\n",
    "choice.yaml": "task: sudokku\noutput_dir: out\n",
    "nothing.yaml": "output_dir: out\n",
    "empty.jsonl": "",
    "broken.jsonl": '{"question": "a", "answer": "b"}\n{"question": \n',
    "columns.jsonl": '{"q": "a", "a": "b"}\n',
    "text.jsonl": '"just text"\n',
    "good.jsonl": '{"question": "a", "answer": "b"}\n',
    "choices.jsonl": '{"question": "a", "choices": ["b", "c"], "answer": 7}\n',
    "text.txt": "hello\n",
    "broken_task/config.json": '{"model_type": "llada"}',
    "broken_task/task.json": '{"task": "sudoku",\n oops}',
    "listed_task/config.json": '{"model_type": "llada"}',
    "listed_task/task.json": "[]",
    "foreign_task/config.json": '{"model_type": "llada"}',
    "foreign_task/task.json": '{"task": "chess"}',
    "sizeless_task/config.json": '{"model_type": "llada"}',
    "sizeless_task/task.json": '{"task": "sudoku"}',
    "broken_config/config.json": '{"model_type": ',
    "unknown_type/config.json": '{"model_type": "no-such-type"}',
    "typeless/config.json": "{}",
    "stock/config.json": '{"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 16}',
    "no_weights/config.json": '{"model_type": "llada", "d_model": 8, "n_heads": 1, "n_layers": 1, "vocab_size": 16}',
    "parent/checkpoint-10/config.json": "{}",
    "parent/checkpoint-20/config.json": "{}",
    "hollow/notes.txt": "nothing here",
    "broken_adapter/adapter_config.json": '{"peft_type": "LORA"',
    "adapterless/adapter_config.json": '{"peft_type": "LORA"}',
}

# What is typed, and what the line must say. FILES are below T.
MISTAKES = [
    # what is no command or no option
    ("genrate x", "genrate.*generate"),
    ("--verison", "--verison.*--version"),
    ("generate --decod med sudoku-4x4 1", "--decod.*--decoding"),
    ("generate sudoku-4x4 1 --max_new_tokens 3", "--max_new_tokens.*--max-new-tokens"),
    ("generate", "model"),
    ("generate sudoku-4x4 1 --seed one", "--seed"),
    ("generate sudoku-4x4 1 --seed", "--seed"),
    ("generate sudoku-4x4 1 2", "2"),
    ("card wirte T/hollow", "wirte.*write"),
    ("card write", "folders"),
    ("demo --puzzles 0", "--puzzles"),
    ("demo --show -1", "--show"),
    ("demo --delay -0.5", "--delay"),
    ("demo --threads 0", "--threads"),
    ("eval sudoku-4x4 --batch-size 0", "--batch-size"),
    ("eval sudoku-4x4 --thresh 3", "--thresh"),
    ("traces arithmetic", "--output"),
    ("push T/hollow", "repo_id"),
    ("app --port many", "--port"),
    ("app --brows", "--brows"),
    # names of models
    ("generate sudoku4x4 1", "sudoku4x4.*did you mean sudoku-4x4"),
    ("generate SUDOKU_6x6 1", "SUDOKU_6x6.*did you mean sudoku-6x6"),
    ("generate sudoku 1", "did you mean sudoku-4x4 or sudoku-6x6"),
    ("generate '' 1", "packaged.*''"),
    ("generate arithmetics 1", "did you mean arithmetic"),
    ("generate T/nowhere 1", "nowhere.*does not exist.*has "),
    ("generate somebody/model 1", "somebody/model.*sudoku-4x4"),
    ("generate no-such-model-anywhere 1", "no-such-model-anywhere.*sudoku-4x4"),
    ("generate 'a b' 1", "'a b'"),
    ("generate T/text.txt 1", "the file .*text.txt"),
    ("generate T/hollow 1", "hollow.*config.json"),
    ("generate T/parent 1", "checkpoint-10 and checkpoint-20"),
    ("generate T/broken_config 1", "config.json"),
    ("generate T/unknown_type 1", "no-such-type"),
    ("generate T/typeless 1", "model_type"),
    ("generate T/no_weights 1", "no_weights"),
    ("generate T/stock 1", "stock"),
    ("generate sudoku-4x4 1 --adapter T/nowhere", "nowhere"),
    ("generate sudoku-4x4 1 --adapter T/hollow", "hollow"),
    ("generate sudoku-4x4 1 --adapter T/adapterless", "--adapter.*adapterless.*weights"),
    ("generate sudoku-4x4 1 --adapter T/broken_adapter", "adapter_config.json, line 1, column 21"),
    ("generate sudoku-4x4 1 --adapter 'no adapter'", "--adapter.*'no adapter'"),
    ("generate latent-diffusion 1", "latent-diffusion"),
    ("view sudoku5x5 1", "did you mean sudoku-6x6 or sudoku-4x4"),
    ("denoise sudoku-4x4 1", "sudoku-4x4.*not a latent diffusion"),
    ("denoise T/nowhere 1", "nowhere"),
    ("denoise sudoku-4x4 1 --show -1", "--show"),
    ("eval T/nowhere", "nowhere"),
    ("eval sudoku_4x4", "did you mean sudoku-4x4"),
    ("traces arithmetik --task arithmetic --output T/out", "did you mean arithmetic"),
    ("app --model sudoku4x4 --no-browser", "did you mean sudoku-4x4"),
    ("bundle sudoku4x4 T/out", "did you mean sudoku-4x4"),
    ("push sudoku4x4 user/x", "did you mean sudoku-4x4"),
    ("push T/nowhere user/x", "nowhere"),
    ("demo --checkpoint sudoku4x4", "did you mean sudoku-4x4"),
    # knobs
    ("generate sudoku-4x4 1 --decoding mde", "'mde'"),
    ("generate sudoku-4x4 1 --max-new-tokens 0", "max_new_tokens"),
    ("generate sudoku-4x4 1 --max-new-tokens -5", "max_new_tokens.*-5"),
    ("generate sudoku-4x4 1 --temperature -1", "temperature.*-1"),
    ("generate sudoku-4x4 1 --temperature nan", "temperature.*nan"),
    ("generate sudoku-4x4 1 --block-length 0", "block_length.*0"),
    ("generate sudoku-4x4 1 --seed -1", "seed.*-1"),
    ("generate sudoku-4x4 1 --set bad", "'bad'"),
    ("generate sudoku-4x4 1 --set =3", "'=3'"),
    ("generate sudoku-4x4 1 --set entropy_treshold=1", "entropy_treshold.*entropy_threshold"),
    ("generate sudoku-4x4 1 --set max_new_tokens=many", "max_new_tokens.*'many'"),
    ("generate sudoku-4x4 1 --set temperature=hot", "temperature.*'hot'"),
    ("generate sudoku-4x4 1 --set top_k=[1]", "top_k"),
    ("generate sudoku-4x4 1 --set suppress_tokens=7.5", "suppress_tokens"),
    ("generate sudoku-4x4 1 --set suppress_tokens=[99999]", "suppress_tokens"),
    ("generate sudoku-4x4 1 --set eos_token_id=x", "eos_token_id"),
    ("generate sudoku-4x4 1 --set cfg_scale=[]", "cfg_scale"),
    ("generate sudoku-4x4 1 --set max_denoising_steps=1.5", "max_denoising_steps.*1.5"),
    ("generate sudoku-4x4 1 --set input_ids=3", "input_ids"),
    ("generate sudoku-4x4 1 --set streamer=1", "streamer"),
    ("generate sudoku-4x4 1 --set attention_mask=1", "attention_mask"),
    ("generate sudoku-4x4 1 --set num_return_sequences=2", "num_return_sequences"),
    ("generate sudoku-4x4 1 --num-latent-tokens -1", "num_latent_tokens|num-latent-tokens"),
    ("generate sudoku-4x4 1 --self-speculative", "--self-speculative"),
    ("generate sudoku-4x4 1 --chat", "chat template|chat_template"),
    ("generate sudoku-4x4 1 --infill --max-new-tokens 3", "infill"),
    ("generate sudoku-4x4 ''", "prompt|token"),
    ("generate latent-tokens-arithmetic 1 --decoding med", "--decoding"),
    ("generate latent-tokens-arithmetic 1 --infill", "--infill"),
    ("generate latent-tokens-arithmetic 1 --set top_kk=3", "top_kk"),
    ("generate latent-tokens-arithmetic 1 --max-new-tokens -1", "max_new_tokens"),
    # view
    ("view sudoku-4x4 1 --reasoning-length 5", "--answer-length"),
    ("view sudoku-4x4 1 --reasoning-length -5 --answer-length 2 --delimiter x", "reasoning_length.*-5"),
    ("view sudoku-4x4 1 --infill --reasoning-length 5 --answer-length 2 --delimiter x", "--infill"),
    ("view sudoku-4x4 1 --against-set bad", "'bad'"),
    ("view sudoku-4x4 1 --max-new-tokens 3 --output T", "--output.*folder"),
    ("view T/broken_task 1", "task.json, line 2, column 2"),
    ("view T/listed_task 1", "task.json must hold a JSON object"),
    # demo
    ("demo --checkpoint arithmetic", "Sudokus, got arithmetic"),
    ("demo --checkpoint T/hollow", "hollow"),
    ("demo --checkpoint T/no_weights", "task.json"),
    ("demo --checkpoint T/broken_task", "task.json, line 2"),
    ("demo --checkpoint T/foreign_task", "chess"),
    ("demo --checkpoint T/sizeless_task", "size"),
    ("demo --output T/nowhere/order.png --puzzles 1", "nowhere"),
    ("demo --output T/order.txtt --puzzles 1", "order.txtt"),
    # eval
    ("eval sudoku-4x4 --tasks chess", "chess"),
    ("eval sudoku-4x4 --tasks ,", "--tasks"),
    ("eval sudoku-4x4 --tasks sudoku-5x5", "sudoku-5x5|5"),
    ("eval sudoku-4x4 --tasks T/nowhere.jsonl", "nowhere.jsonl"),
    ("eval sudoku-4x4 --tasks T/empty.jsonl", "empty.jsonl"),
    ("eval sudoku-4x4 --tasks T/broken.jsonl", "broken.jsonl.*line 2"),
    ("eval sudoku-4x4 --tasks T/columns.jsonl", "field of the file, .'a', 'q'"),
    ("eval sudoku-4x4 --tasks T/text.jsonl", "text.jsonl"),
    ("eval sudoku-4x4 --tasks T/good.jsonl --question-field q", "question.field"),
    ("eval sudoku-4x4 --tasks T/good.jsonl --prompt '{nofield}'", "nofield"),
    ("eval sudoku-4x4 --tasks T/good.jsonl --prompt '{question'", "expected '}'"),
    ("eval sudoku-4x4 --tasks T/choices.jsonl:choice", "choices.jsonl|choice"),
    ("eval sudoku-4x4 --tasks T/good.jsonl:nonsense", "nonsense"),
    ("eval sudoku-4x4 --tasks T/text.txt", "text.txt"),
    ("eval sudoku-4x4 --limit 0", "limit"),
    ("eval sudoku-4x4 --limit -3", "limit"),
    ("eval sudoku-4x4 --decoding mde --limit 1 --output T/e1", "'mde'"),
    ("eval sudoku-4x4 --entropy-threshold low --limit 1 --output T/e2", "entropy_threshold|entropy-threshold"),
    ("eval sudoku-4x4 --entropy-threshold 0.5:0.1:0.1 --limit 1 --output T/e3", "0.5:0.1:0.1"),
    ("eval sudoku-4x4 --entropy-threshold 0:1:0 --limit 1 --output T/e4", "0:1:0"),
    ("eval sudoku-4x4 --set decoding=med", "--decoding"),
    ("eval sudoku-4x4 --set nonsense=1 --limit 1 --output T/e5", "nonsense"),
    ("eval sudoku-4x4 --tasks sudoku-4x4:likelihood --estimator exact", "exact"),
    ("eval sudoku-4x4 --tasks sudoku-4x4:likelihood --num-samples 0", "num_samples|num-samples"),
    ("eval sudoku-4x4 --answer-filter magic --tasks T/good.jsonl", "magic"),
    ("eval sudoku-4x4 --card T/nowhere", "--card.*nowhere"),
    ("eval T/broken_task", "task.json, line 2"),
    ("eval T/foreign_task", "chess"),
    ("eval T/no_weights", "--tasks"),
    ("eval sudoku-4x4 --limit 1 --output T/text.txt", "text.txt"),
    ("eval sudoku-4x4 --tasks harness:no_such_task --output T/e6", "no_such_task"),
    ("eval sudoku-4x4 --tasks harness:x --include-path T/nowhere --output T/e7", "nowhere|include.path"),
    # traces
    ("traces arithmetic --output T/out", "--task"),
    ("traces arithmetic --output T/out --task sudoku", "sudoku"),
    ("traces arithmetic --output T/out --task arithmetic --format docx", "docx"),
    ("traces arithmetic --output T/out --data T/nowhere.jsonl", "nowhere.jsonl"),
    ("traces arithmetic --output T/out --data T/broken.jsonl", "broken.jsonl"),
    ("traces arithmetic --output T/out --data T/columns.jsonl", "question"),
    ("traces arithmetic --output T/out --data T/empty.jsonl", "empty.jsonl"),
    ("traces arithmetic --output T/out --data T/good.jsonl --answer-pattern '('", "answer.pattern"),
    ("traces arithmetic --output T/out --data T/good.jsonl --answer-pattern abc", "answer.pattern"),
    ("traces sudoku-4x4 --output T/out --task arithmetic", "--reasoning-length"),
    ("traces arithmetic --output T/out --task arithmetic --limit 0", "limit"),
    ("traces arithmetic --output T/out --task arithmetic --split tset", "tset"),
    ("traces arithmetic --output T/out --task arithmetic --estimator exact --limit 1", "exact"),
    ("traces arithmetic --output T/out --task arithmetic --estimator none --best 1", "none"),
    ("traces arithmetic --output T/out --task arithmetic --num-traces 0 --limit 1", "num.traces"),
    ("traces arithmetic --output T/out --task arithmetic --batch-size 0 --limit 1", "batch.size"),
    ("traces arithmetic --output T/out --task arithmetic --shard-size 0 --limit 1", "shard.size"),
    ("traces arithmetic --output T/out --task arithmetic --top-share 2 --limit 1", "top.share"),
    ("traces arithmetic --output T/text.txt --task arithmetic --limit 1", "text.txt"),
    # train
    ("train --config T/nowhere.yaml", "nowhere.yaml.*does not exist"),
    ("train --config T", "--config.*folder"),
    ("train --config", "--config"),
    ("train --config T/broken.yaml", "broken.yaml, line 3, column 2"),
    ("train --config T/list.yaml", "list.yaml.*list"),
    ("train --config T/empty.yaml", "empty.yaml"),
    ("train --config T/binary.yaml", "binary.yaml"),
    ("train --config T/typo.yaml", "max_stpes.*max_steps"),
    ("train --config T/number.yaml", r"max_steps.*\[3\]"),
    ("train --config T/choice.yaml", "'sudokku'"),
    ("train --config T/nothing.yaml", "task.*train_file"),
    ("train --max-stepz 3", "--max-stepz.*--max_steps"),
    ("train --max-step 3", "--max-step.*--max_steps"),
    ("train --task sudoku --max-steps few", "max_steps.*'few'"),
    ("train --task chess", "chess"),
    ("train --task sudoku stray", "stray"),
    ("train --task sudoku --task-size 5 --output-dir T/run --model-config '{}'", "5"),
    ("train --task sudoku --output-dir T/run", "model_config.*backbone"),
    ("train --task sudoku --output-dir T/run --model-config '{oops'", "model_config"),
    ("train --task sudoku --output-dir T/run --model-config T/nowhere.json", "nowhere.json"),
    ("train --task sudoku --output-dir T/run --model-config T/broken.json", "broken.json.*line 2"),
    ("train --task sudoku --output-dir T/run --model-config T/list.json", "list.json"),
    ("train --task sudoku --num-train-examples 4 --output-dir T/run --model-config '{\"hiden\": 3}'", "hiden"),
    ('train --task sudoku --num-train-examples 4 --output-dir T/run --model-config \'{"model_type": "x"}\'', "'x'"),
    ("train --task sudoku --num-train-examples 0 --output-dir T/run --model-config '{}'", "num_train_examples|num"),
    ("train --train-file T/nowhere.jsonl --output-dir T/run --backbone T/stock", "nowhere.jsonl"),
    ("train --train-file T/broken.jsonl --output-dir T/run --backbone T/stock", "broken.jsonl"),
    ("train --train-file T/empty.jsonl --output-dir T/run --backbone T/stock", "empty.jsonl"),
    ("train --train-file T/columns.jsonl --prompt-column x --output-dir T/run --backbone T/stock", "'x'"),
    ("train --train-file T/good.jsonl --output-dir T/run --backbone sudoku4x4", "did you mean sudoku-4x4"),
    ("train --train-file T/good.jsonl --output-dir T/run --backbone T/nowhere", "nowhere"),
    ("train --train-file T/good.jsonl --output-dir T/run --model-name-or-path sudoku4x4", "did you mean sudoku-4x4"),
    ("train --task sudoku --output-dir T/run --model-name-or-path sudoku-4x4 --use-peft", "lora_target_modules"),
    ("train --task sudoku --output-dir T/run --model-config '{}' --load-in-4bit", "use_peft"),
    ("train --task sudoku --output-dir T/run --model-config '{}' --optim magic", "magic"),
    ("train --task sudoku --output-dir T/run --model-config '{}' --lr-scheduler-type magic", "magic"),
    ("train --task sudoku --num-train-examples 4 --output-dir T/run --model-config '{}' --report-to magic", "magic"),
    ("train --task sudoku --output-dir T/run --model-config '{}' --loss-weighting magic", "magic"),
    ("train --task sudoku --output-dir T/run --model-config '{}' --time-epsilon 2", "time_epsilon"),
    ("train --task sudoku --output-dir T/run --model-config '{}' --generation-kwargs T/broken.json", "broken.json"),
    ("train --task sudoku --output-dir T/run --model-config '{}' --task-options '{\"siz\": 4}'", "siz"),
    ("train --dataset-name T/nowhere --output-dir T/run --model-config '{}'", "nowhere"),
    # bundles and the Hub
    ("bundle T/nowhere T/out", "nowhere"),
    ("bundle sudoku-4x4 T/text.txt", "text.txt"),
    ("bundle sudoku-4x4 T/out --max-shard-size huge", "huge"),
    ("bundle sudoku-4x4 T/out --adapter T/hollow", "hollow"),
    ("bundle-decoder mde T/out", "mde"),
    ("bundle-decoder med T/out --set verify=1", "verify"),
    ("bundle-decoder med T/out --set entropy_treshold=1", "entropy_treshold"),
    ("bundle-decoder med T/out --set entropy_threshold=low", "entropy_threshold"),
    ("bundle-decoder med T/text.txt", "text.txt"),
    ("push T/hollow user/x", "hollow"),
    ("push sudoku-4x4 'no name' --dry-run --no-verify", "no name"),
    ("push sudoku-4x4 user/x --dry-run --no-verify --repo-type space", "space"),
    ("pull 'no name'", "no name"),
    ("pull user/x T/text.txt", "text.txt"),
    ("pull user/x T/out --repo-type space", "space"),
    ("pull user/x T/out", "user/x|HF_HUB_OFFLINE"),
    ("card write T/nowhere", "nowhere"),
    ("card write T/broken_config", "config.json"),
    ("card write T/no_weights T/stock --title x", "--title"),
    ("card shelf T/nowhere", "nowhere"),
    ("card shelf T/text.txt", "text.txt"),
    # the page
    ("app --threads 0 --no-browser", "--threads.*0"),
    ("app --port 99999999 --no-browser", "--port|port"),
    ("app --host 'no host' --no-browser", "no host"),
    ("app --export-space T/text.txt", "--export-space.*must be a folder, got .*text.txt"),
    ("app --export-space T/text.txt/space", "--export-space.*text.txt is a file"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files of the table."""
    root = tmp_path_factory.mktemp("wrong")
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@pytest.mark.parametrize(("typed", "said"), MISTAKES)
def test_a_mistake_is_one_line_that_names_it(typed, said, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    arguments = [
        str(folder) + word[1:] if word == "T" or word.startswith("T/") else word for word in shlex.split(typed)
    ]
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    error = capfd.readouterr().err
    line = error.strip().splitlines()[-1]
    assert stop.value.code in (1, 2)
    assert "Traceback" not in error
    assert line.startswith("hf-latent: ")
    assert re.search(said, line), line


def test_the_table_is_long_and_has_every_command():
    commands = {shlex.split(typed)[0] for typed, _ in MISTAKES}
    known = {name for name, _ in cli_commands()}
    assert len(MISTAKES) >= 80 and known <= commands


def cli_commands() -> list[tuple[str, object]]:
    import typer

    return list(typer.main.get_command(cli.app).commands.items())
