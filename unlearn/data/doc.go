// Package data brings labelled images into memory and says which of them are to be forgotten.
//
// A [Set] is one split of a dataset: uint8 pixels in NCHW order, labels, class names. [Open] makes it by the dataset's
// name. A [Spec] chooses the forget set and [ForgetSet] is its file. A [Loader] brings a set to a device, whole or batch by
// batch; its [View]s hand out batches and report every sample they hand out to a [Meter], which refuses what the method's
// regime does not allow.
//
// Everything read here comes from outside and is taken as hostile: sizes are bounded before memory is asked for, and
// what is wrong is an error that names the file. A new dataset is one file that calls [Register], and one test.
package data
