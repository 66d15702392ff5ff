"""What models compute with: each operation picks its fastest exact path and keeps a reference.

Shapes carry suffixes: T tokens, B rows, S row length, C hidden size, H query heads, K key/value
heads, D head size, F feed-forward size, V vocabulary.
"""

from llmtools.ops.attention import attention as attention
from llmtools.ops.attention import cached_attention as cached_attention
from llmtools.ops.linear import linear as linear
from llmtools.ops.loss import cross_entropy as cross_entropy
from llmtools.ops.norm import rms_norm as rms_norm
from llmtools.ops.quant_linear import quant_linear as quant_linear
from llmtools.ops.rope import apply_rope as apply_rope
from llmtools.ops.rope import rope_tables as rope_tables
from llmtools.ops.swiglu import swiglu as swiglu
