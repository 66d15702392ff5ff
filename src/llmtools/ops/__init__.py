"""What models compute with: each operation picks its fastest exact path and keeps a reference.

Shapes carry suffixes: T tokens, B rows, S row length, C hidden size, H query heads, K key/value
heads, D head size, F feed-forward size, V vocabulary.
"""

from llmtools.ops.attention import attention as attention
from llmtools.ops.attention import attention_and_lse as attention_and_lse
from llmtools.ops.cached_attention import PAGE as PAGE
from llmtools.ops.cached_attention import cached_attention as cached_attention
from llmtools.ops.conv import causal_conv as causal_conv
from llmtools.ops.gated import geglu as geglu
from llmtools.ops.gated import swiglu as swiglu
from llmtools.ops.linear import linear as linear
from llmtools.ops.loss import cross_entropy as cross_entropy
from llmtools.ops.loss import linear_log_probs as linear_log_probs
from llmtools.ops.moe import grouped_linear as grouped_linear
from llmtools.ops.moe import route as route
from llmtools.ops.moe import sort_by_expert as sort_by_expert
from llmtools.ops.norm import add_rms_norm as add_rms_norm
from llmtools.ops.norm import layer_norm as layer_norm
from llmtools.ops.norm import rms_norm as rms_norm
from llmtools.ops.paged_attention import paged_attention as paged_attention
from llmtools.ops.quant_linear import quant_linear as quant_linear
from llmtools.ops.rope import apply_rope as apply_rope
from llmtools.ops.rope import rope_tables as rope_tables
from llmtools.ops.sampling import sample as sample
from llmtools.ops.scaled_linear import scaled_linear as scaled_linear
from llmtools.ops.scan import selective_scan as selective_scan
