"""The official encoder by dm-haiku, random, and its checkpoint as the official code writes it; needs the extra `doors`.

`haiku.nets.ResNet` has the names and layers of the official class, but for its classifier: the identity there.
"""

import functools

import dill
import haiku as hk
import jax
import numpy as np
from haiku.data_structures import to_immutable_dict


def network(blocks, width: int, seed: int = 0):
    """-> (parameters, state, features): random, batch-norm averages too; features(images (B, H, W, 3)) -> (B, dim)."""

    def forward(x, training):
        channels = tuple(4 * width << stage for stage in range(4))
        resnet = hk.nets.ResNet(blocks, channels[-1], bottleneck=True, channels_per_group=channels,
                                use_projection=(True,) * 4, initial_conv_config={"output_channels": width},
                                name="res_net50")  # fmt: skip
        return resnet(x, is_training=training)

    both = hk.without_apply_rng(hk.transform_with_state(forward))
    shapes = jax.eval_shape(functools.partial(both.init, training=True), jax.random.PRNGKey(0),
                            np.zeros((1, 64, 64, 3), np.float32))  # fmt: skip
    rng = np.random.default_rng(seed)

    def drawn(path, shape):
        name, z = path[-1].key, rng.standard_normal(shape.shape, np.float32)
        if name == "w":
            eye = path[0].key.endswith("logits")
            return np.eye(len(z), dtype=np.float32) if eye else z / np.float32(np.prod(z.shape[:-1]) ** 0.5)
        if name == "average" and "var_ema" in path[0].key:
            return np.exp(z / 4)
        return {"scale": 1 + z / 8, "offset": z / 8, "average": z / 8, "hidden": z, "b": 0 * z, "counter": z}[name]

    params, state = (jax.tree_util.tree_map_with_path(drawn, x) for x in shapes)
    apply = jax.jit(functools.partial(both.apply, training=False))
    return params, state, lambda images: np.array(apply(params, state, images)[0])


def checkpoint(params, state, devices: int = 0) -> bytes:
    """As dill.dump(..., protocol=2) of a training's state; `devices` puts an axis of so many in front."""

    def given(tree):
        stacked = jax.tree_util.tree_map(lambda x: np.stack(devices * [x]) if devices else np.asarray(x), tree)
        return to_immutable_dict(stacked)

    state = {"online_params": given(params), "online_state": given(state)}
    return dill.dumps({"experiment_state": state, "step": 3, "rng": jax.random.PRNGKey(0)}, protocol=2)
