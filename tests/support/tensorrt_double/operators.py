"""The operators of the ONNX parser of TensorRT 10.3, and the types that each takes.

Source: docs/operators.md of onnx/onnx-tensorrt at commit 0137504e2b25fe5253bd85d26b073378fb67805b (10.6), the
stored version nearest to 10.3, less what docs/Changelog.md there says came between: the windows with 10.4,
STFT with 10.5. The table of 8.5 (commit 6d0ab7be324d02c7feb3a306b6fdbeae84f71ddc) has all four as
unsupported.
"""

from __future__ import annotations

_FLOATS = "FLOAT HALF BF16"
_WHOLE = "INT32 INT64"

_FLOAT_ONLY = """
    Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Cos Cosh
    CumSum DeformConv Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GRU
    GridSample GroupNormalization HardSigmoid HardSwish Hardmax ImageScaler InstanceNormalization IsInf
    LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool LRN LSTM MatMul MaxPool
    MeanVarianceNormalization Mish NonMaxSuppression NonZero ParametricSoftplus Pow PRelu QuantizeLinear
    RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize RNN RoiAlign Round
    ScaledTanh Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
"""
_NUMBERS = """
    Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean
    Min Mod Mul Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub
    Sum TopK
"""
_ANYTHING = """
    Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop
    OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where
"""

SUPPORTED: dict[str, frozenset[str]] = {
    operator: frozenset(types.split())
    for operators, types in (
        (_FLOAT_ONLY, _FLOATS),
        (_NUMBERS, f"{_FLOATS} {_WHOLE}"),
        (_ANYTHING, f"{_FLOATS} {_WHOLE} BOOL"),
        ("And Not Or Xor", "BOOL"),
        ("Cast CastLike", f"{_FLOATS} {_WHOLE} BOOL UINT8"),
        ("DequantizeLinear", "INT8 FP8 INT4"),
    )
    for operator in operators.split()
}

_UNSUPPORTED = """
    AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow CenterCropPad
    Col2Im Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear HammingWindow HannWindow
    ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss
    Optional OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch STFT
    SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap
    SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer StringSplit TfIdfVectorizer
    Unique
"""
KNOWN_UNSUPPORTED = frozenset(_UNSUPPORTED.split())
"""Operators that the table has with an N: the parser knows them, and their checker always fails."""
