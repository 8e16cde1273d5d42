// The layers of DiGress on a CPU: everything beside the matrix products in few passes over memory.
//
// Of a pair state (81 pairs of 64 channels in a QM9 molecule) a layer makes 512 and 256 channels
// and then 64 again. `edge_block` does that for a few graphs at a time, so that what is wide never
// leaves the core's own cache, and works it out again for the gradients instead of keeping it.
//
// Loops run over channels, which lie side by side, so that the compiler turns them into vector
// instructions. T, the type of matrix products, is float or c10::BFloat16; all else is float.
//
// Shapes: B graphs, N padded nodes of which n are real, X / E channels of nodes and pairs, F hidden
// channels of the pairs' feed-forward block, R rows, C channels of any of these.

#include <torch/library.h>

#include "edge_block.h"
#include "pool.h"
#include "row_operations.h"

using namespace openfl_flows;

TORCH_LIBRARY(openfl_flows_digress, library) {
  library.def("edge_block", &edge_block);
  library.def("edge_block_backward", &edge_block_backward);
  library.def("residual_norm", &residual_norm_op);
  library.def("residual_norm_backward", &residual_norm_backward_op);
  library.def("relu_dropout", &relu_dropout_op);
  library.def("relu_dropout_backward", &relu_dropout_backward_op);
  library.def("pool", &pool);
  library.def("pool_backward", &pool_backward);
}
