"""scale/convert.py on checkpoints in the official layout with random weights: made by dm-haiku and dill where the extra
`doors` is installed, and byte by byte without them. No official file was there to be read.
"""

import importlib
import itertools
import json
import pickle
import pickletools
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import official
import pytest
import torch
from core_checks import tiny_data
from official import Flat, array, pickled, text, written
from torch.testing import assert_close

from semppl_mini import fit, load_run, presets
from semppl_mini.files import checkpoint
from semppl_mini.keeping.command import command
from semppl_mini.networks import ENCODERS
from semppl_mini.recipes import resnets

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scale"))
convert = importlib.import_module("convert")
reader = importlib.import_module("pickled")
MB = 2**20


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A ResNet-50 of width 8, of two devices: 5 MB."""
    path = tmp_path_factory.mktemp("official") / "pretrain.pkl"
    path.write_bytes(pickled(official.official(devices=2)))
    return path


def program(*arguments):
    """What scale/convert.py ends with: None, or the line on stderr, or the status of one."""
    argv, sys.argv = sys.argv, ["convert.py", *map(str, arguments)]
    try:
        return command(convert.main, "scale/convert.py")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = argv


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    """The same as a run's folder, by the program."""
    out = tmp_path_factory.mktemp("runs") / "official"
    assert program(source, "--out", out) is None
    return out


def assert_sentence(said, path):
    assert said.startswith(f"{path} ") and said.isprintable() and said.endswith(".") and len(said) < 600, said


def refusal(blob, path, most=8 * MB):
    """The sentence that refuses these bytes; more than `most` bytes of memory is a failure."""
    path.write_bytes(blob)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:
            convert.convert(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    said = str(error.value)
    assert_sentence(said, path)
    assert peak < most, f"{peak / MB:.0f} MB"
    return said


# ---- what comes out


def test_layers_are_named_by_hand():
    """A few of each kind, as they stand in Haiku's and in our ResNet."""
    names = dict(convert.layers(resnets.BLOCKS["resnet200"]))
    assert len(names) == len(set(names.values())) == 2 * (1 + 3 * 66 + 4)
    assert names["stem.1"] == "initial_batchnorm"
    assert names["stages.0.conv1"] == "block_group_0/~/block_0/~/conv_0"
    assert names["stages.3.downsample.0"] == "block_group_1/~/block_0/~/shortcut_conv"
    assert names["stages.26.bn3"] == "block_group_1/~/block_23/~/batchnorm_2"
    assert names["stages.65.conv2"] == "block_group_3/~/block_2/~/conv_1"


@pytest.mark.parametrize("backbone, width, devices", [("resnet50", 8, 0), ("resnet50", 16, 1), ("resnet200", 8, 3)])
def test_every_array_arrives_in_its_place(backbone, width, devices, tmp_path):
    blocks = official.BLOCKS[backbone]
    params, state = official.parameters(blocks, width, devices)
    (tmp_path / "x.pkl").write_bytes(pickled(official.official(blocks=blocks, width=width, devices=devices)))
    config, encoder = convert.convert(tmp_path / "x.pkl")
    assert (config.backbone, config.width, config.stem, config.padding) == (backbone, width, "imagenet", "same")
    took = 0
    for ours, theirs in convert.layers(blocks):
        first = (lambda x: x[0]) if devices else (lambda x: x)
        layer = {name: first(x) for name, x in params[f"res_net50/~/{theirs}"].items()}
        if "w" in layer:
            assert_close(encoder[f"{ours}.weight"].numpy(), np.einsum("hwio->oihw", layer["w"]), rtol=0, atol=0)
            took += 1
            continue
        for part in ("mean_ema", "var_ema"):
            layer[part] = first(state[f"res_net50/~/{theirs}/~/{part}"]["average"])
        for here, there in zip(("weight", "bias", "running_mean", "running_var"), layer, strict=True):
            assert np.array_equal(encoder[f"{ours}.{here}"].numpy(), layer[there][0, 0, 0])
        took += 5  # and the count of batches
    assert took == len(encoder)
    ENCODERS[backbone](config).load_state_dict(encoder)


def test_the_folder_is_a_run(source, folder):
    run = load_run(folder)
    _, encoder = convert.convert(source)
    for made in (run.method.encoder.state_dict(), checkpoint.load(folder / "encoder.pt")):
        assert list(made) == list(encoder) and all(torch.equal(made[name], encoder[name]) for name in encoder)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["architecture"] | {"backbone": "resnet50", "width": 8, "padding": "same"} == facts["architecture"]
    assert facts["converted_from"]["file"] == "pretrain.pkl" and facts["converted_from"]["sha256"][:16] in run.data
    assert (run.config.mean, run.config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # their dataset.py


@pytest.mark.parametrize("method", ["linear", "semppl"])
def test_the_folder_is_a_start(method, folder):
    config = presets.imagenet_1pct().replace(
        method=method, labels=20, width=8, padding="same", projector_hidden=8, predictor_hidden=8, embedding_dim=8,
        large_views=1, small_views=0, large_size=32, batch_size=16, queue=32, negatives=4, device="cpu",
    )  # fmt: skip
    run, encoder = fit(config, tiny_data(), progress=False, weights=folder, steps=1), load_run(folder).method.encoder
    if method == "linear":  # frozen
        assert all(map(torch.equal, run.method.encoder.state_dict().values(), encoder.state_dict().values()))
    else:  # one step of warm-up, at rate 0
        assert all(map(torch.equal, run.method.encoder.parameters(), encoder.parameters()))
        assert all(map(torch.equal, run.method.target["encoder"].parameters(), encoder.parameters()))
    with pytest.raises(ValueError, match="has padding = 'same', not 'symmetric'; give the same.$"):
        fit(config.replace(padding="symmetric"), tiny_data(), progress=False, weights=folder)


def test_arrays_as_pickle_writes_them_are_read_too(tmp_path):
    """Without dill: numpy's own words, memo, frames; both names of numpy's module."""
    arrays = {"a": np.arange(6, dtype=">f8").reshape(2, 3), "b": np.asfortranarray(np.ones((300, 2), np.float32)),
              "c": np.float32([[1.5]]), "d": np.arange(4, dtype=np.float16)}  # fmt: skip
    path = tmp_path / "x.pkl"
    for blob in (*(pickle.dumps(arrays, protocol) for protocol in (2, 3, 4)), pickled(arrays)):
        for old in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
            blob = blob.replace(b"cnumpy._core.multiarray\n", b"c" + old + b"\n")
            path.write_bytes(blob)
            found = reader.read(path, lambda value, array: {name: array(x) for name, x in value.items()})
            assert list(found) == list(arrays)
            assert all(x.dtype == arrays[n].dtype and np.array_equal(x, arrays[n]) for n, x in found.items())


# ---- against Haiku itself


@pytest.fixture(scope="module")
def haiku():
    for package in ("haiku", "dill", "jax"):
        pytest.importorskip(package, reason="this is for `make test-doors`")
    return importlib.import_module("haiku_official")


def test_features_are_haikus(haiku, tmp_path):
    """ResNet-50, a side that is even down to 6 pixels and one that is odd, with the padding of either library."""
    params, state, features = haiku.network(resnets.BLOCKS["resnet50"], 16)
    (tmp_path / "x.pkl").write_bytes(haiku.checkpoint(params, state, devices=2))
    config, tensors = convert.convert(tmp_path / "x.pkl")
    x = np.random.default_rng(1).standard_normal((2, 96, 65, 3), np.float32)
    wanted, ours = torch.from_numpy(features(x)), {}
    for padding in ("same", "symmetric"):
        encoder = ENCODERS["resnet50"](config.replace(padding=padding)).eval()
        encoder.load_state_dict(tensors)
        with torch.no_grad():
            ours[padding] = encoder(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous())
    assert_close(ours["same"], wanted, rtol=0, atol=1e-5)  # 1e-6 or less when it was written
    assert (ours["symmetric"] - wanted).norm() > 0.03 * wanted.norm()


def test_our_bytes_say_what_dills_say(haiku):
    """The checkpoints of the other tests: dill and Haiku read them, and name the same things in their own."""
    import dill

    value = official.official(blocks=(1,), devices=2)
    read = dill.loads(pickled(value))["experiment_state"]
    for name, part in read.items():
        for layer, arrays in value["experiment_state"][name].items():
            assert all(np.array_equal(part[layer][key], x) for key, x in arrays.items())
    theirs = haiku.checkpoint({"a": {"w": np.ones(2, np.float32)}}, {})
    names = [{call for code, call, _ in pickletools.genops(blob) if code.name == "GLOBAL"}
             for blob in (pickled(value).replace(b"numpy.core", b"numpy._core"), theirs)]  # fmt: skip
    assert names[0] == names[1] - {"jax._src.array _reconstruct_array"}


# ---- hostile and damaged ones


class Code:
    """A pickle of it makes a file when it is loaded: the canary."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def reduced(function, *args):
    """The operations of a call."""
    module, name = function.rsplit(".", 1)
    return f"c{module}\n{name}\n(".encode() + b"".join(map(written, args)) + b"tR"


CODE = {
    "a shell": (reduced("os.system", "true"), "asks for 'os.system', which is no part of"),
    "an import by dill": (reduced("dill._dill._import_module", "os"), "asks for 'dill._dill._import_module'"),
    "a type by dill": (reduced("dill._dill._load_type", "CodeType"), "asks for 'dill._dill._load_type'"),
    "a name of numpy's": (reduced("numpy.load", "x.npy"), "asks for 'numpy.load'"),
    "an evaluation": (b"\x8c\x08builtins\x8c\x04eval\x93" + text("1") + b"\x85R", "asks for 'builtins.eval'"),
    "a name of a letter that is none": (b"chaiku\n\x1b[2J\n)R", "asks for 'haiku.\\x1b[2J', which"),
    "a class of Python 2": (b"(ios\nsystem\n", "uses INST, which no"),
    "a persistent thing": (b"Px\n", "uses PERSID, which no"),
    "an extension": (b"\x82\x01", "uses EXT1, which no"),
    "a call of a text": (text("os.system") + b")R", "is damaged: a str stands where a Name belongs"),
}  # fmt: skip


@pytest.mark.parametrize("name", CODE)
def test_hostile_official_checkpoint_runs_nothing(name, tmp_path):
    blob, says = CODE[name]
    assert says in refusal(b"\x80\x04" + blob + b".", tmp_path / "x.pkl")


def test_hostile_official_checkpoint_with_code_is_refused(tmp_path):
    for protocol in (0, 2, 4, 5):
        blob = pickle.dumps({"experiment_state": Code(tmp_path / "it ran")}, protocol)
        refusal(blob, tmp_path / "x.pkl")
    assert not (tmp_path / "it ran").exists()
    pickle.loads(blob)  # an ordinary unpickler does run it
    assert (tmp_path / "it ran").exists()


def test_hostile_names_of_known_packages_are_words_alone(tmp_path):
    """An optimizer's state may name them; they are neither imported nor called."""
    value = official.official()
    value["experiment_state"]["opt_state"] = reduced("optax.no_such_module.State", "x")
    value["rng"] = reduced("jax.os.system", "true")
    (tmp_path / "x.pkl").write_bytes(pickled(value))
    before = set(sys.modules)
    convert.convert(tmp_path / "x.pkl")
    assert not {name for name in set(sys.modules) - before if name.split(".")[0] in ("jax", "optax", "haiku")}


def state_of(params, state=None):
    """A checkpoint of these parameters."""
    return pickled({"experiment_state": {"online_params": params, "online_state": state or Flat()}})


def lying(shape, raw):
    """An array that says it has this shape."""
    honest, said = array(np.zeros(1, np.float32)), b"".join(b"J" + struct.pack("<i", n) for n in shape)
    zero = b"c_codecs\nencode\n" + text("\0\0\0\0")
    return honest.replace(b"(J\1\0\0\0t", b"(" + said + b"t").replace(zero, b"c_codecs\nencode\n" + raw)


STEM, ROOM = "res_net50/~/initial_conv", 2_000_000
BLOCKS_50 = Flat({f"res_net50/~/block_group_{g}/~/block_{b}/~/conv_0": Flat() for g, n in enumerate((3, 4, 6, 3))
                  for b in range(n)})  # fmt: skip


def with_stem(w):
    return state_of(Flat(BLOCKS_50 | {STEM: Flat(w=w)}))


def repeated():
    """One text of 100,000 letters, kept in the memo, as the bytes of every array: 5 GB, were they all made."""
    params, state = official.parameters(width=8)
    once = text("\0" * 100_000)
    for layer in (*params.values(), *state.values()):
        for name in layer:
            raw, once = (once + b"r\1\0\0\0" if once else b"j\1\0\0\0"), b""
            layer[name] = lying((5, 10, 10, 50), raw)
    return state_of(params, state)


def laughs(depth):
    """A tuple of the same tuple twice, of the same tuple twice, ... as the key of a dict."""
    return b"\x80\x02})" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth)) + b"Ns."


BOMBS = {
    "an array of terabytes": (lambda: with_stem(lying((10**6, 10**6, 3, 1), text("x"))), "promises more than it holds"),
    "an array of no bytes": (lambda: with_stem(lying((1, 1, 3, 8), text("x"))), "(1, 1, 3, 8) has 1 bytes, not 96"),
    "a negative array": (lambda: with_stem(lying((-7, -7, 3, 8), text("x"))), "whose shape is not of whole numbers"),
    "an array of 64 axes": (lambda: with_stem(lying((1,) * 64, text("x"))), "shape is not of whole numbers from 1 on"),
    "an array of pointers": (lambda: with_stem(array(np.zeros(1, "f4")).replace(text("f4"), text("O8"))),
                             "holds an array of type 'O8'; floats of"),
    "arrays of one text": (repeated, "promises more than it holds: arrays of more than its"),
    "an array within numpy's call": (lambda: with_stem(reduced("numpy.core.multiarray._reconstruct", 2**31 - 1)),
                                     "is damaged: a NoneType stands where a tuple belongs"),
    "a text of terabytes": (lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**42) + b"x.", f"{2**42} bytes of text are to"),
    "an array of bytes to fill": (lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**42) + b".", "uses BYTEARRAY8, which"),
    "a frame of terabytes": (lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**42) + b"N.", "a NoneType stands where a dict"),
    "a far place in the memo": (lambda: b"\x80\x02}r\xff\xff\xff\xff.", "has no 'experiment_state' where an official"),
    "a number of megabytes": (lambda: b"\x80\x02\x8b" + struct.pack("<i", ROOM) + b"\xff" * ROOM + b".", "uses LONG4"),
    "a name of megabytes": (lambda: b"\x80\x02c" + b"o" * ROOM + b"\ns\n.", "names something in more than 200 letters"),
    "more operations than any": (lambda: b"\x80\x02" + b"N" * ROOM + b".", "has more than 1048576 operations, the limit"),
    "a nest of lists": (lambda: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "a list stands where a dict"),
    "a nest of tuples": (lambda: b"\x80\x02)" + b"\x85" * 100_000 + b".", "a tuple stands where a dict belongs"),
    "a nest as a key": (lambda: b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.", "a tuple stands where a str belongs"),
    "a key that takes for ever": (lambda: laughs(200), "is damaged: a tuple stands where a str belongs"),
    "a list of itself": (lambda: b"\x80\x02]q\0h\0a.", "a list stands where a dict belongs"),
    "a dict of itself": (lambda: b"\x80\x02}q\0" + text("experiment_state") + b"h\0s.", "has no 'online_params' where"),
    "nothing": (lambda: b"", "is no whole pickle (KeyError"),
    "no end": (lambda: b"\x80\x02}", "is no whole pickle (KeyError"),
    "an empty stack": (lambda: b"\x80\x02.", "is no whole pickle (IndexError"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_hostile_official_checkpoint_takes_no_more_than_it_holds(name, tmp_path):
    make, says = BOMBS[name]
    blob = make()
    assert says in refusal(blob, tmp_path / "x.pkl", most=100 * MB)


def changed(edit):
    """The bytes of a checkpoint whose {"online_params", "online_state"} were edited."""
    params, state = official.parameters()
    edit(params, state)
    return state_of(params, state)


def put(name, value):
    return lambda: changed(lambda params, state: params.__setitem__(f"res_net50/~/{name}", value))


def zeros(*shape):
    return np.zeros(shape, np.float32)


AT = "block_group_2/~/block_3/~/"
SK = "those with selective kernels (SK) are not converted"
WRONG = {
    "no state": (lambda: pickled({"step": 1}), "has no 'experiment_state' where an official checkpoint has it; it has ['step"),
    "no parameters": (lambda: pickled({"experiment_state": {"online_state": Flat()}}), "has no 'online_params' where an"),
    "no layer": (lambda: changed(lambda p, s: p.pop(f"res_net50/~/{AT}batchnorm_1")), f"has no 'res_net50/~/{AT}batchnorm_1'"),
    "no average": (lambda: changed(lambda p, s: s[f"res_net50/~/{AT}batchnorm_1/~/var_ema"].pop("average")), "has no 'average'"),
    "no running state": (lambda: changed(lambda p, s: s.clear()), "has no 'res_net50/~/initial_batchnorm/~/mean_ema' where"),
    "a layer more": (put(AT + "conv_3", Flat(w=zeros(1, 1, 4, 4))), f"has a layer 'res_net50/~/{AT}conv_3' that the official"),
    "selective kernels": (put(AT + "sk_conv/~/conv", Flat(w=zeros(1, 1, 4, 4))), SK),
    "two encoders": (lambda: changed(lambda p, s: p.update({"byol/~/initial_conv": Flat()})), "has 2 layers called"),
    "another network": (lambda: state_of(Flat({"mlp/linear": Flat(w=zeros(2, 2))})), "has 0 layers called .../~/initial_conv, an"),
    "another depth": (lambda: changed(lambda p, s: [p.pop(name) for name in list(p) if "group_2/~/block_5" in name]),
                      "is a ResNet of (3, 4, 5, 3) blocks a stage; (3, 4, 6, 3) or (3, 24, 36, 3) can be converted."),
    "a convolution as torch has it": (put(AT + "conv_1", Flat(w=zeros(32, 32, 3, 3))),
                                      "stages.10.conv2.weight has shape (3, 3, 32, 32), not (32, 32, 3, 3); fetch"),
    "another width": (put(AT + "conv_0", Flat(w=zeros(1, 1, 128, 16))), "stages.10.conv1.weight has shape (16, 128, 1, 1), not"),
    "a flat norm": (put(AT + "batchnorm_1", Flat(scale=zeros(32), offset=zeros(32))), "'scale' of shape (32,) where four axes"),
    "infinities": (put(AT + "conv_1", Flat(w=np.full((3, 3, 32, 32), np.inf, np.float32))),
                   "where four axes of finite numbers are expected"),
    "whole numbers": (put(AT + "conv_1", Flat(w=np.zeros((3, 3, 32, 32), np.int32))), "holds an array of type 'i4'; floats"),
    "a text for an array": (put(AT + "conv_1", Flat(w="x")), "is damaged: a str stands where a Call belongs"),
    "a stem too narrow": (put("initial_conv", Flat(w=zeros(7, 7, 3, 4))), "has a stem of 4 channels; those of official"),
    "a stem too wide": (put("initial_conv", Flat(w=zeros(7, 7, 3, 16))), "ResNet-50 0.25x: stem.1.weight has shape (8,), not (16,)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_corrupt_official_checkpoint_is_refused(name, tmp_path):
    make, says = WRONG[name]
    assert says in refusal(make(), tmp_path / "x.pkl", most=40 * MB)


def test_corrupt_bytes_of_a_pickle_are_refused_or_arrays(tmp_path):
    """Bits flipped, bytes set, ends cut off, stretches dropped, 1,500 times: arrays of floats, or one sentence."""
    rng, path = np.random.default_rng(0), tmp_path / "x.pkl"
    value = {"a": np.ones((2, 3), np.float32), "b": Flat(c=np.zeros(500, np.float32)), "d": 7}
    wholes = [pickled(value), pickle.dumps({**value, "b": {"c": value["b"]["c"]}}, 4)]

    def arrays(value, array):
        value = reader.mapping(value)
        return [array(value["a"]), array(reader.mapping(value["b"])["c"])]

    outcomes = set()
    for i in range(1500):
        blob = bytearray(wholes[i % 2])
        at, what = int(rng.integers(len(blob))), i % 5
        if what < 2:
            blob[at] ^= 1 << int(rng.integers(8))
        elif what == 2:
            blob[at] = int(rng.integers(256))
        else:
            del blob[at : None if what == 3 else at + int(rng.integers(1, 40))]
        path.write_bytes(blob)
        try:
            found = reader.read(path, arrays)
            assert all(x.dtype.kind == "f" and x.nbytes <= len(blob) for x in found)
            outcomes.add("arrays")
        except ValueError as error:
            assert_sentence(str(error), path)
            outcomes.add("a sentence")
    assert outcomes == {"arrays", "a sentence"}


def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    for name in ("nowhere.pkl", "full"):
        assert program(name, "--out", "runs") == f"scale/convert.py: There is no file {name}; give a checkpoint."
    assert program("nowhere.pkl", "--out", "full") == 2
    assert capsys.readouterr().err == "convert.py: --out full is not empty; choose another folder (see --help).\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "note.txt"]


# ---- and on to the read-outs

def test_the_papers_read_outs_take_it(folder, tmp_path, monkeypatch):
    """On drawn class folders in ImageNet's layout: by logistic regression, and by linear evaluation, a step of it."""
    from PIL import Image

    evaluate = importlib.import_module("evaluate")
    rng, roots = np.random.default_rng(0), {"train": 8, "val": 3}
    for (part, n), (c, name) in itertools.product(roots.items(), enumerate(("n00000001", "n00000002"))):
        (tmp_path / "set" / part / name).mkdir(parents=True)
        for i in range(n):
            pixels = (rng.normal(60 + 130 * c, 20, (40, 48, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{i}.JPEG")
    monkeypatch.setenv("SEMPPL_RUNS", str(tmp_path / "runs"))
    for on, more in (("folders", ["--size", 64]), ("linear", ["--rates", 0.3, "--epochs", 1, "--batch", 4, "--val", 1])):
        arguments = [folder, "--on", on, "--data", tmp_path / "set", "--name", on, "--out", tmp_path, *more]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        evaluate.main()
    read = {on: json.loads((tmp_path / f"{on}.json").read_text()) for on in ("folders", "linear")}
    assert read["folders"]["results"]["logistic"]["top1"] == 1  # dark and light
    chosen = read["linear"]["results"]["chosen"]["classifier"]
    assert torch.equal(load_run(chosen).method.encoder.stem[0].weight, load_run(folder).method.encoder.stem[0].weight)
    assert 0 <= read["linear"]["results"]["test"]["top1"] <= 1
