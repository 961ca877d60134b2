"""Checkpoints as dill writes them of Haiku's parameters (protocol 2), byte by byte, without dill or JAX."""

import struct

import numpy as np

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet200": (3, 24, 36, 3)}


class Flat(dict):
    """What is written as Haiku's FlatMapping."""


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def raw(value: bytes) -> bytes:
    """Bytes, of which protocol 2 knows nothing: the encoding of a text."""
    return b"c_codecs\nencode\n" + text(value.decode("latin1")) + text("latin1") + b"\x86R"


def array(value: np.ndarray, numpy: bytes = b"numpy.core.multiarray") -> bytes:
    kind = b"cnumpy\ndtype\n" + text(value.dtype.str[1:]) + b"\x89\x88\x87R(K\x03" + text(value.dtype.str[0])
    kind += b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    made = b"c" + numpy + b"\n_reconstruct\n"
    shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in value.shape) + b"t"
    state = b"(K\x01" + shape + kind + b"\x89" + raw(value.tobytes()) + b"t"
    made += b"cnumpy\nndarray\nK\x00\x85" + raw(b"b") + b"\x87"
    return b"cdill._dill\n_create_array\n(" + made + state + b"NtR"


def written(value) -> bytes:
    """The operations that leave a value on the stack; bytes are taken as such operations."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Flat):
        return b"chaiku._src.data_structures\nFlatMapping\n" + written(dict(value)) + b"\x85R"
    if isinstance(value, dict):
        return b"}(" + b"".join(written(key) + written(item) for key, item in value.items()) + b"u"
    if isinstance(value, np.ndarray):
        return array(value)
    return text(value) if isinstance(value, str) else b"J" + struct.pack("<i", value)


def pickled(value) -> bytes:
    return b"\x80\x02" + written(value) + b"."


def parameters(blocks=BLOCKS["resnet50"], width=8, devices=0, seed=0, root="res_net50/~/"):
    """Random online_params and online_state of an official ResNet; `devices` puts an axis of so many in front."""
    rng, params, state = np.random.default_rng(seed), {}, {}

    def some(*shape):
        x = rng.standard_normal(shape).astype(np.float32)
        return np.stack(devices * [x]) if devices else x

    def conv(name, k, inner, outer):
        params[root + name] = Flat(w=some(k, k, inner, outer) / np.float32(k * k * inner) ** 0.5)
        norm = name.replace("conv", "batchnorm")
        params[root + norm] = Flat(scale=1 + some(1, 1, 1, outer) / 8, offset=some(1, 1, 1, outer) / 8)
        for part, x in (("mean_ema", some(1, 1, 1, outer) / 8), ("var_ema", np.exp(some(1, 1, 1, outer) / 4))):
            counter = np.array([7] * devices if devices else 7, np.int32)
            state[f"{root}{norm}/~/{part}"] = Flat(average=x, hidden=x / 2, counter=counter)

    conv("initial_conv", 7, 3, width)
    inner = width
    for stage, n in enumerate(blocks):
        for block in range(n):
            at, w = f"block_group_{stage}/~/block_{block}/~/", width << stage
            for k, sizes in enumerate(((1, inner, w), (3, w, w), (1, w, 4 * w))):
                conv(f"{at}conv_{k}", *sizes)
            if block == 0:
                conv(f"{at}shortcut_conv", 1, inner, 4 * w)
            inner = 4 * w
    params[root + "logits"] = Flat(w=some(inner, 10), b=some(10))
    params["projector/linear"] = Flat(w=some(inner, 4))
    return Flat(params), Flat(state)


def official(**changes) -> dict:
    """A checkpoint as a dict; `pickled` makes it a file."""
    params, state = parameters(**changes)
    state = {"online_params": params, "online_state": state}
    return {"experiment_state": state, "step": 5, "rng": np.zeros(2, np.uint32)}
