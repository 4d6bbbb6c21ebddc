// Package metrics measures classifiers.
package metrics

import (
	"context"

	"l2ul/torch"
	"l2ul/unlearn/chunk"
)

// Images are labelled images in a fixed order, handed out in batches.
type Images interface {
	// Len returns the number of images.
	Len() int
	// Batch returns images from to to-1 as Float [n, C, H, W] in [0, 1] and their labels as Long [n], in the current
	// scope.
	Batch(from, to int) (x, y torch.Tensor, err error)
}

// Score counts how a classifier does on a set of images.
type Score struct {
	Hits int64   // images whose largest logit is that of their label; of equal logits the first counts
	N    int64   // images
	Loss float64 // mean cross-entropy in nats, summed in float64; NaN for an empty set
}

// Accuracy returns Hits / N, NaN for an empty set.
func (s Score) Accuracy() float64 { return float64(s.Hits) / float64(s.N) }

// Classifier is a network as a function from images to logits.
type Classifier func(x torch.Tensor) (logits torch.Tensor)

// Evaluate scores a classifier on images, so many at once. progress, which may be nil, is told the number of images done.
func Evaluate(ctx context.Context, classifier Classifier, images Images, atOnce *chunk.Size, progress func(done int)) (Score, error) {
	scores, err := EvaluateAll(ctx, []Classifier{classifier}, images, atOnce, progress)
	if err != nil {
		return Score{}, err
	}
	return scores[0], nil
}

// EvaluateAll is Evaluate of several classifiers, in one pass over the images.
func EvaluateAll(ctx context.Context, classifiers []Classifier, images Images, atOnce *chunk.Size, progress func(done int)) ([]Score, error) {
	scores := make([]Score, len(classifiers)) // Loss is a sum until the end
	for from := 0; from < images.Len(); {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		batch := make([]Score, len(classifiers)) // counts only once all of it is there: memory may run out before
		done, err := atOnce.Do(images.Len()-from, func(n int) (err error) {
			torch.Scope(func() {
				var x, y torch.Tensor
				if x, y, err = images.Batch(from, from+n); err != nil {
					return
				}
				for i, classifier := range classifiers {
					torch.Scope(func() { // what one has computed makes room for the next
						torch.NoGrad(func() {
							logits := classifier(x)
							batch[i].Hits = Hits(logits, y)
							batch[i].Loss = logits.CrossEntropy(y, torch.Tensor{}, torch.ReduceNone, ignoreNone).CastTo(torch.Double).Sum().Item()
						})
					})
				}
			})
			return err
		})
		if err != nil {
			return nil, err
		}
		from += done
		for i, b := range batch {
			scores[i].Hits += b.Hits
			scores[i].Loss += b.Loss
		}
		if progress != nil {
			progress(from)
		}
	}
	for i := range scores {
		scores[i].N = int64(images.Len())
		scores[i].Loss /= float64(scores[i].N) // 0/0 is NaN
	}
	return scores, nil
}

// ignoreNone is no label: libtorch skips samples with this one.
const ignoreNone = -100

// Hits counts the rows of logits [n, C] whose largest element is at the label's place, y Long [n].
func Hits(logits, y torch.Tensor) int64 { return CountHits(logits, y).ItemInt() }

// CountHits is [Hits] as a Long tensor without dimensions, for which nobody waits.
func CountHits(logits, y torch.Tensor) torch.Tensor { return logits.ArgMax(1, false).Eq(y).Sum() }

// CrossEntropy is the mean cross-entropy of logits [n, C] at labels y [n], with a gradient.
func CrossEntropy(logits, y torch.Tensor) torch.Tensor { return SmoothedCrossEntropy(logits, y, 0) }

// SmoothedCrossEntropy is [CrossEntropy] at labels of which a share is spread evenly over all classes.
func SmoothedCrossEntropy(logits, y torch.Tensor, share float64) torch.Tensor {
	return logits.SmoothedCrossEntropy(y, torch.Tensor{}, torch.ReduceMean, ignoreNone, share)
}

// Predict returns the class of each image: the largest of its logits, of equal ones the first.
func Predict(ctx context.Context, classifier Classifier, images Images, atOnce *chunk.Size, progress func(done int)) ([]int, error) {
	var classes []int
	for from := 0; from < images.Len(); {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		var batch []int
		done, err := atOnce.Do(images.Len()-from, func(n int) (err error) {
			batch = batch[:0] // memory may have run out before
			torch.Scope(func() {
				var x torch.Tensor
				if x, _, err = images.Batch(from, from+n); err != nil {
					return
				}
				torch.NoGrad(func() {
					for _, class := range torch.ToSlice[int64](classifier(x).ArgMax(1, false)) {
						batch = append(batch, int(class))
					}
				})
			})
			return err
		})
		if err != nil {
			return nil, err
		}
		classes = append(classes, batch...)
		if from += done; progress != nil {
			progress(from)
		}
	}
	return classes, nil
}
