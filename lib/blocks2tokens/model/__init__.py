"""The transformer: settings, layers, attention and its cache, and the forward pass over them.

token ids -> embedding -> n_layers x (attention, feed-forward) -> norm -> logits
"""

from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.kv_cache import KVCache
from blocks2tokens.model.transformer import Transformer

__all__ = ["KVCache", "ModelConfig", "Transformer"]
