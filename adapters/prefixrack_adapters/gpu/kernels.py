"""The kernels themselves, in Triton's language: Python that is compiled for a GPU. Called by their neighbours only.

Prefixes and heads are read where each adapter's own tensors lie, through tables of addresses: nothing is gathered or
copied for a pack. What is summed is summed in float32.
"""

# Triton compiles these functions from their source: it reads its own types, and knows no others.
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
SQRT_HALF = tl.constexpr(0.7071067811865476)

# Triton compiles a kernel anew for arguments that are 1, and for those that are multiples of 16. Of these nothing is
# gained by that, and a pack whose numbers are the first of their kind would wait for it.
PREFIXES = ("key_addresses", "value_addresses", "prefix_lens")
TABLES = ("starts", "context_lens", "item_rows", "item_firsts", "distance_places")
SIZES = ("window", "num_tokens", "num_distances", "longest_row")
LAYERS = ("weights", "biases", "num_outputs", "input_widths", "activations", "item_firsts", "item_sizes")
STRIDES = ("state_stride", "out_stride")


@triton.jit(do_not_specialize=[*PREFIXES, *TABLES, *SIZES])
def attend(
    query,  # [T, heads, head_dim], tokens query_stride values apart
    key,  # [T, kv_heads, head_dim], tokens key_stride values apart, and value likewise
    value,
    out,  # [T, heads, head_dim], contiguous
    key_addresses,  # int64 [num_rows]: of this layer's prefix keys, each [prefix_len, kv_heads, head_dim], contiguous
    value_addresses,
    prefix_lens,  # int64 [num_rows]
    starts,  # int64 [num_rows + 1]: where rows begin in the pack
    context_lens,  # int64 [num_rows]: tokens that all see each other, -1 for none; read with HAS_CONTEXT alone
    item_rows,  # int64 [num_items]: the row that a block of queries belongs to, -1 for nothing to do
    item_firsts,  # int64 [num_items]: its first query, counted from the row's beginning
    to_all,  # [heads, T, num_distances]: each query's scores of distances; read with HAS_TO_ALL alone
    from_all,  # [heads, T, num_distances]: each key's; read with HAS_FROM_ALL alone
    distance_places,  # int64 [2 * longest_row - 1]: which of them the distance d has, at d + longest_row - 1
    query_stride,
    key_stride,
    scale,
    window,
    num_tokens,
    num_distances,
    longest_row,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,  # query heads for each key head
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,  # the power of two at or above it
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_CONTEXT: tl.constexpr,
    HAS_TO_ALL: tl.constexpr,
    HAS_FROM_ALL: tl.constexpr,
    UNIT: tl.constexpr,  # in values: addresses of keys and values, and their strides, are multiples of it
    PRECISION: tl.constexpr,
):
    """Attention of one block of one row's queries, in one head, over the row's prefix and the row's own tokens.

    Programs that run side by side are heads of the same rows: a vector of keys holds all heads, and is read as a whole.
    Prefix and tokens are blocks of one loop, so that the next one is on its way while this one is computed.
    """
    head = tl.program_id(0)
    item = tl.program_id(1)
    row = tl.load(item_rows + item)
    if row < 0:
        return
    # Within a row 32 bits are enough: 64 would take twice the registers.
    first = tl.load(item_firsts + item).to(tl.int32)
    start = tl.load(starts + row)
    row_len = (tl.load(starts + row + 1) - start).to(tl.int32)
    prefix_len = tl.load(prefix_lens + row).to(tl.int32)
    in_vector = head // GROUP * HEAD_DIM
    kv_width: tl.constexpr = NUM_HEADS // GROUP * HEAD_DIM
    dtype: tl.constexpr = query.dtype.element_ty
    address: tl.constexpr = tl.pointer_type(dtype)
    unit_bytes: tl.constexpr = UNIT * dtype.primitive_bitwidth // 8
    prefix_key, prefix_value = tl.load(key_addresses + row), tl.load(value_addresses + row)
    own_key, own_value = (key + start * key_stride).to(tl.int64), (value + start * key_stride).to(tl.int64)

    at = tl.arange(0, PADDED_DIM)
    in_head = at < HEAD_DIM
    queries = first + tl.arange(0, BLOCK_QUERIES)
    is_query = queries < row_len
    query_at = query + start * query_stride + head * HEAD_DIM + queries[:, None] * query_stride + at[None, :]
    q = tl.load(query_at, mask=is_query[:, None] & in_head[None, :], other=0.0)
    scale = scale * LOG2_E

    highest = tl.full([BLOCK_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_QUERIES], tl.float32)
    acc = tl.zeros([BLOCK_QUERIES, PADDED_DIM], tl.float32)
    last = row_len
    if IS_CAUSAL:
        last = tl.minimum(row_len, first + BLOCK_QUERIES)
    if HAS_CONTEXT:
        context_len = tl.load(context_lens + row).to(tl.int32)
        last = tl.where(context_len < 0, row_len, tl.maximum(context_len, tl.minimum(row_len, first + BLOCK_QUERIES)))
    behind_prefix = tl.cdiv(prefix_len, BLOCK_KEYS) * BLOCK_KEYS  # where the blocks of the row's own tokens begin
    for begin in range(0, behind_prefix + last, BLOCK_KEYS):
        is_own = begin >= behind_prefix
        columns = begin + tl.arange(0, BLOCK_KEYS)
        in_prefix = columns[None, :] < behind_prefix
        places = columns - tl.where(is_own, behind_prefix, 0)
        is_key = places < tl.where(is_own, row_len, prefix_len)
        # Said here, of the pointers themselves, the multiples let whole vectors be read at once and ahead of their use.
        key_at = tl.multiple_of(tl.where(is_own, own_key, prefix_key).to(address), unit_bytes)
        value_at = tl.multiple_of(tl.where(is_own, own_value, prefix_value).to(address), unit_bytes)
        stride = tl.multiple_of(tl.where(is_own, key_stride, kv_width), UNIT)
        places_at = in_vector + places[:, None] * stride + at[None, :]
        mask = is_key[:, None] & in_head[None, :]
        k = tl.load(key_at + places_at, mask=mask, other=0.0)
        v = tl.load(value_at + places_at, mask=mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        is_seen = is_key[None, :] & is_query[:, None]
        distance = queries[:, None] - places[None, :]
        if HAS_TO_ALL or HAS_FROM_ALL:
            is_near = is_seen & (columns[None, :] >= behind_prefix)
            place = tl.load(distance_places + distance + longest_row - 1, mask=is_near, other=0)
        if HAS_TO_ALL:
            term_at = (head * num_tokens + start + queries)[:, None] * num_distances + place
            scores += tl.load(to_all + term_at, mask=is_near, other=0.0).to(tl.float32)
        if HAS_FROM_ALL:
            term_at = (head * num_tokens + start + places)[None, :] * num_distances + place
            scores += tl.load(from_all + term_at, mask=is_near, other=0.0).to(tl.float32)
        if IS_CAUSAL:
            is_seen = is_seen & ((distance >= 0) | in_prefix)
        if HAS_CONTEXT:
            is_shared = (places[None, :] < context_len) | (context_len < 0) | in_prefix
            is_seen = is_seen & ((distance >= 0) | is_shared)
        if HAS_WINDOW:
            is_seen = is_seen & (((distance < window) & (distance > -window)) | in_prefix)
        # Online softmax (Milakov and Gimelshein, arXiv 1805.02867), in powers of two.
        scores = tl.where(is_seen, scores * scale, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, axis=1))
        # A query that has seen nothing so far keeps -inf: the difference of two of them would be no number.
        base = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(highest - base)
        total = total * shrink + tl.sum(weights, axis=1)
        acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        highest = new_highest

    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    out_at = out + start * (NUM_HEADS * HEAD_DIM) + head * HEAD_DIM
    out_at += queries[:, None] * (NUM_HEADS * HEAD_DIM) + at[None, :]
    tl.store(out_at, acc.to(out.dtype.element_ty), mask=is_query[:, None] & in_head[None, :])


@triton.jit
def add_and_normalise(
    states,  # [T, WIDTH]: the sum's first part, and where the result goes
    residual,  # [T, WIDTH]
    weight,  # [WIDTH]
    bias,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """LayerNorm(states + residual), in place, one token a program. The sum is not rounded before it is normalised."""
    token = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < WIDTH
    summed = tl.load(states + token * WIDTH + at, mask=mask, other=0.0).to(tl.float32)
    summed += tl.load(residual + token * WIDTH + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(summed, axis=0) / WIDTH
    centred = tl.where(mask, summed - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / WIDTH
    normal = centred * tl.rsqrt(variance + eps)
    scaled = normal * tl.load(weight + at, mask=mask, other=0.0).to(tl.float32)
    scaled += tl.load(bias + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(states + token * WIDTH + at, scaled.to(states.dtype.element_ty), mask=mask)


@triton.jit
def gelu(
    states,  # [num_values], contiguous, and where the result goes
    num_values,
    BLOCK: tl.constexpr,
):
    """x times the normal distribution's share below x, in place."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < num_values
    x = tl.load(states + at, mask=mask, other=0.0).to(tl.float32)
    x = 0.5 * x * (1.0 + tl.erf(x * SQRT_HALF))
    tl.store(states + at, x.to(states.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=[*LAYERS, *STRIDES])
def dense(
    states,  # [num_states, state_stride], of which the first input_width values are read
    out,  # float32 [num_states, out_stride]
    weights,  # int64 [num_items]: addresses of float32 [num_outputs, input_width], contiguous
    biases,  # int64 [num_items]: addresses of float32 [num_outputs], 0 for none
    num_outputs,  # int64 [num_items]
    input_widths,  # int64 [num_items]
    activations,  # int64 [num_items]: an index into `dense.ACTIVATIONS`
    item_firsts,  # int64 [num_items]: the first state of an item
    item_sizes,  # int64 [num_items]: how many states it has, at most BLOCK_STATES
    state_stride,
    out_stride,
    BLOCK_STATES: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
):
    """One dense layer of many heads at once: each item is some states that one head reads, for a block of outputs."""
    item = tl.program_id(0)
    outputs = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    num = tl.load(num_outputs + item)
    if tl.program_id(1) * BLOCK_OUTPUTS >= num:
        return
    width = tl.load(input_widths + item)
    weight = tl.load(weights + item).to(tl.pointer_type(tl.float32))
    bias_address = tl.load(biases + item)
    activation = tl.load(activations + item)
    slots = tl.arange(0, BLOCK_STATES)
    is_state = slots < tl.load(item_sizes + item)
    rows = tl.load(item_firsts + item) + slots
    is_output = outputs < num

    acc = tl.zeros([BLOCK_STATES, BLOCK_OUTPUTS], tl.float32)
    for begin in range(0, width, BLOCK_INPUTS):
        inputs = begin + tl.arange(0, BLOCK_INPUTS)
        is_input = inputs < width
        x_at = rows[:, None] * state_stride + inputs[None, :]
        x = tl.load(states + x_at, mask=is_state[:, None] & is_input[None, :], other=0.0).to(tl.float32)
        w_at = outputs[:, None] * width + inputs[None, :]
        w = tl.load(weight + w_at, mask=is_output[:, None] & is_input[None, :], other=0.0)
        acc += tl.dot(x, tl.trans(w), input_precision="ieee")
    if bias_address != 0:
        acc += tl.load(bias_address.to(tl.pointer_type(tl.float32)) + outputs, mask=is_output, other=0.0)[None, :]
    if activation == 1:  # tanh, in exponentials that cannot overflow
        small = tl.exp(-2.0 * tl.abs(acc))
        magnitude = (1.0 - small) / (1.0 + small)
        acc = tl.where(acc < 0, -magnitude, magnitude)
    elif activation == 2:
        acc = 0.5 * acc * (1.0 + tl.erf(acc * SQRT_HALF))
    elif activation == 3:
        acc = tl.maximum(acc, 0.0)
    out_at = rows[:, None] * out_stride + outputs[None, :]
    tl.store(out + out_at, acc, mask=is_state[:, None] & is_output[None, :])
