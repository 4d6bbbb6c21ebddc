package run

import (
	_ "embed" // for the published schemas
	"maps"
	"slices"
	"strconv"
	"strings"

	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
)

// Score is how a model does on one split.
type Score struct {
	Accuracy float64 `json:"accuracy" jsonschema:"minimum=0,maximum=1,description=fraction of samples whose largest logit is their label's"`
	Loss     *Number `json:"loss,omitempty" jsonschema:"oneof_type=number;null,description=mean cross-entropy in nats; null when not finite"`
	Hits     int64   `json:"hits" jsonschema:"minimum=0,description=samples classified rightly"`
	N        int64   `json:"n" jsonschema:"minimum=0,description=samples evaluated"`
}

// Scores are the scores on the three splits; Retain is nil (null) when nothing is left to retain.
type Scores struct {
	Forget Score  `json:"forget"`
	Retain *Score `json:"retain"`
	Test   *Score `json:"test"`
}

// Seconds is wall time by phase.
type Seconds struct {
	Total      float64 `json:"total" jsonschema:"minimum=0"`
	Attack     float64 `json:"attack" jsonschema:"minimum=0"`
	Importance float64 `json:"importance" jsonschema:"minimum=0"`
	Unlearn    float64 `json:"unlearn" jsonschema:"minimum=0"`
	Eval       float64 `json:"eval" jsonschema:"minimum=0"`
}

// ForgetSet identifies the samples to forget.
type ForgetSet struct {
	Indices []int64 `json:"indices" jsonschema:"description=positions in the training set, in the order of the run"`
	Hash    string  `json:"hash" jsonschema:"description=sha256 over the hash of the data\\, the indices and the targets"`
	Spec    string  `json:"spec,omitempty" jsonschema:"description=what --forget said"`
}

// Hashes identify the inputs; all are sha256 in hex.
type Hashes struct {
	Weights string `json:"weights" jsonschema:"description=over name, dtype, shape and bytes of the tensors sorted by name"`
	Data    string `json:"data" jsonschema:"description=over pixels and labels"`
	Config  string `json:"config" jsonschema:"description=over the canonical JSON of the keys that can change a result"`
}

// DataAccess proves what the method looked at.
type DataAccess struct {
	RetainDuringUnlearning bool       `json:"retain_during_unlearning" jsonschema:"description=whether a sample to retain was read outside before and after"`
	Reads                  data.Reads `json:"reads" jsonschema:"description=samples by phase (before\\, attack\\, importance\\, unlearn\\, stop-check\\, after) and set (forget\\, retain\\, val\\, test)"`
}

// AttackSummary describes the adversarial examples.
type AttackSummary struct {
	attack.Summary
	Store   string  `json:"store,omitempty" jsonschema:"enum=f32,enum=f16,description=how the examples are kept; f16 rounds them"`
	Seconds float64 `json:"seconds" jsonschema:"minimum=0,description=what making them took\\, in this run or in the earlier one whose examples it took from the cache"`
}

// AnchorSummary describes the weights Ω̄ of the penalty over all trained parameters: near 1 they are held, near 0 they may
// move (spec/l2ul.md section 4.2). Without --compat.minmax-guard some may be no numbers.
type AnchorSummary struct {
	Min    Number  `json:"min" jsonschema:"oneof_type=number;null"`
	Median Number  `json:"median" jsonschema:"oneof_type=number;null,description=the lower one of an even number"`
	Mean   Number  `json:"mean" jsonschema:"oneof_type=number;null"`
	Max    Number  `json:"max" jsonschema:"oneof_type=number;null"`
	Ones   float64 `json:"ones" jsonschema:"minimum=0,maximum=1,description=share that is exactly 1"`
}

// OracleSummary describes a network retrained without the images to forget.
type OracleSummary struct {
	Key     string  `json:"key,omitempty" jsonschema:"description=sha256 of all that decides its bits: recipe\\, data\\, images to forget\\, seed\\, architecture\\, machine and versions. The same key is the same network; it has none if it was trained on two machines"`
	Seconds float64 `json:"seconds" jsonschema:"minimum=0,description=what training it took\\, in this run or in the earlier one whose network it took from the cache"`
}

// Versions of the parts that make the bits.
type Versions struct {
	Unlearn  string `json:"unlearn"`
	Libtorch string `json:"libtorch"`
	Go       string `json:"go,omitempty"`
}

// About says what a result is of and what made it: the part that the results of train, attack and importance share.
type About struct {
	Schema    string      `json:"schema"`
	Name      string      `json:"name,omitempty"`
	Tags      []string    `json:"tags,omitempty"`
	Model     string      `json:"model"`
	Origin    *Origin     `json:"origin,omitempty"` // of the weights that it began with
	Dataset   string      `json:"dataset"`
	Outcome   string      `json:"outcome"` // one word; these verbs either finish or have no result
	Hashes    Hashes      `json:"hashes"`
	Device    string      `json:"device"`
	Precision string      `json:"precision"`          // as in Result
	Mode      engine.Mode `json:"mode,omitempty"`     // as in Result; importance has none
	Fallback  string      `json:"fallback,omitempty"` // as in Result
	Threads   int         `json:"threads,omitempty"`
	Seed      int64       `json:"seed"`

	Compat     Compat   `json:"compat,omitempty"`     // as in Result
	Preprocess string   `json:"preprocess,omitempty"` // as in Result
	Guessed    []string `json:"guessed,omitempty"`    // as in Result
	Warnings   []string `json:"warnings,omitempty"`   // as in Result

	Versions Versions `json:"versions"`
}

// Compat are the quirks of the published code that a run took over, by name without "compat." (spec/l2ul.md section 7).
type Compat map[string]string

// String tells them in one line.
func (c Compat) String() string {
	var told []string
	for _, name := range slices.Sorted(maps.Keys(c)) {
		told = append(told, name+" "+c[name])
	}
	return strings.Join(told, ", ")
}

// compat lists the quirks in force.
func (d *desk) compat() Compat {
	quirks := Compat{}
	for _, f := range d.Config.Fields() {
		name, ok := strings.CutPrefix(f.Name, "compat.")
		if v, _, _ := d.Config.Get(f.Name); ok && !v.Equal(f.Default) {
			quirks[name] = v.String()
		}
	}
	if v, _, ok := d.Config.Get("importance"); ok && v.String() == "mas-batch" {
		quirks["mas"] = "batch"
	}
	for name, on := range d.feed.quirks() {
		if delete(quirks, name); on {
			quirks[name] = "on"
		}
	}
	if delete(quirks, "utk-subset"); d.larger != nil {
		quirks["utk-subset"] = strconv.Itoa(len(d.larger))
	}
	if len(quirks) == 0 {
		return nil // as a result that is read back has it
	}
	return quirks
}

// ResultSchema is the schema name of Result.
const ResultSchema = "unlearn.result/1"

// Result is result.json of `unlearn forget`. Accuracies are fractions. Readers must ignore fields they do not know.
type Result struct {
	Schema     string          `json:"schema" jsonschema:"enum=unlearn.result/1"`
	Name       string          `json:"name,omitempty"`
	Tags       []string        `json:"tags,omitempty"`
	Model      string          `json:"model,omitempty"`
	Origin     *Origin         `json:"origin,omitempty" jsonschema:"description=of the weights that it began with"`
	Dataset    string          `json:"dataset,omitempty"`
	Method     string          `json:"method"`
	Goal       string          `json:"goal" jsonschema:"enum=misclassify,enum=relabel"`
	Outcome    unlearn.Outcome `json:"outcome" jsonschema:"enum=reached,enum=already,enum=cap,enum=diverged,enum=interrupted"`
	Reached    bool            `json:"reached" jsonschema:"description=whether the goal holds on every image to forget"`
	GoalHits   *int64          `json:"goal_hits,omitempty" jsonschema:"minimum=0,description=images to forget that had their label (misclassify) or their new label (relabel) when last counted"`
	Steps      int64           `json:"steps" jsonschema:"minimum=0"`
	Passes     int64           `json:"passes" jsonschema:"minimum=0"`
	Seconds    Seconds         `json:"seconds"`
	Before     *Scores         `json:"before"`
	After      *Scores         `json:"after" jsonschema:"description=null when the run did not come that far"`
	Forget     ForgetSet       `json:"forget"`
	Request    *RequestResult  `json:"request,omitempty" jsonschema:"description=of a run in a stream of requests; retain is then without the images of earlier ones"`
	Pool       *PoolResult     `json:"pool,omitempty" jsonschema:"description=of a correction\\, whose images to forget are from there; forget has then what the network predicted for them as labels"`
	Hashes     Hashes          `json:"hashes"`
	DataAccess DataAccess      `json:"data_access"`
	Attack     *AttackSummary  `json:"attack,omitempty"`
	Anchors    *AnchorSummary  `json:"anchors,omitempty"`
	Oracle     *OracleSummary  `json:"oracle,omitempty" jsonschema:"description=the network that was retrained"`
	Cached     []string        `json:"cached,omitempty" jsonschema:"description=what was taken from the cache and not computed: attack\\, importance\\, oracle\\, before.forget\\, before.retain\\, before.test"`
	Penalty    *Number         `json:"penalty,omitempty" jsonschema:"oneof_type=number;null,description=final value of lambda times R"`
	Distance   *Number         `json:"distance,omitempty" jsonschema:"oneof_type=number;null,description=Euclidean distance of the parameters from where they began\\, or from the anchor of a request that has one"`
	PeakMemory int64           `json:"peak_memory_bytes,omitempty" jsonschema:"minimum=0,description=largest resident size of the process"`
	Device     string          `json:"device"`
	Precision  string          `json:"precision" jsonschema:"enum=fp32,enum=tf32,enum=bf16,enum=bf16+tf32,description=of what convolutions and matrix products multiply: bf16 in the attack alone\\, or in training with --amp\\, tf32 everywhere\\, bf16+tf32 in the attack and elsewhere; all else\\, and what decides the class of an image\\, is fp32"`
	Mode       engine.Mode     `json:"mode,omitempty" jsonschema:"enum=exact,enum=bf16,enum=fast,enum=reference,description=arithmetic of attack\\, scores and training: exact is float32 in another order than PyTorch's\\, bf16 multiplies bfloat16 in the attack\\, fast ends the attack on a pair when its target is sure\\, reference has PyTorch's bits"`
	Fallback   string          `json:"fallback,omitempty" jsonschema:"description=how attack and scores\\, or the attack's gradients\\, ran in place of what mode says\\, and why"`
	Threads    int             `json:"threads,omitempty"`
	Seed       int64           `json:"seed"`
	Limited    bool            `json:"limited" jsonschema:"description=whether --limit left samples out of the scores"`
	Compat     Compat          `json:"compat,omitempty" jsonschema:"description=where the published code's behaviour was taken over: the compat.… settings that are not at their default"`
	Preprocess string          `json:"preprocess,omitempty" jsonschema:"description=how image files became pixels: native\\, or resized and cropped as torchvision does"`
	Guessed    []string        `json:"guessed,omitempty" jsonschema:"description=what auto stood for: the dataset that the files looked like\\, the network that the weights fit"`
	Warnings   []string        `json:"warnings,omitempty" jsonschema:"description=what does not fit together: flags that differ from what the network was made for"`
	Versions   Versions        `json:"versions"`
}

// Progress says how near the goal is, as "3 of 16 images keep their label".
func (r *Result) Progress() string {
	n := int64(len(r.Forget.Indices))
	if r.Request != nil && r.Request.StopScope == scopeAll {
		for _, e := range r.Request.Earlier {
			n += e.N
		}
	}
	return unlearn.Goal(r.Goal).Progress(*r.GoalHits, n)
}

// RequestResult is what a run is in a stream of requests (spec/l2ul.md section 2.5).
type RequestResult struct {
	ID        string           `json:"id"`
	Position  int              `json:"position" jsonschema:"minimum=1"`
	StopScope string           `json:"stop_scope" jsonschema:"enum=request,enum=all,description=whether the goal was tested on this request alone or on all so far"`
	Anchor    string           `json:"anchor,omitempty" jsonschema:"description=hash of the weights that attack\\, importance and penalty refer to\\, where those are not the ones that the run began with"`
	Earlier   []EarlierRequest `json:"earlier,omitempty" jsonschema:"description=how the network does afterwards on the images of each earlier request"`
}

// PoolResult is what a correction did to the pool that its images are from; scores are by true labels.
type PoolResult struct {
	Images int64      `json:"images" jsonschema:"minimum=0,description=in the pool"`
	Hash   string     `json:"hash" jsonschema:"description=over pixels and labels"`
	Right  PoolScores `json:"right" jsonschema:"description=images that the network had right\\, which were left out of the choice"`
	Rest   PoolScores `json:"rest" jsonschema:"description=images that it had wrong and that were not chosen"`
}

// PoolScores are the scores of a part of a pool; nil (null) where there are no such images.
type PoolScores struct {
	Before *Score `json:"before,omitempty"`
	After  *Score `json:"after,omitempty"`
}

// EarlierRequest is the score, after a request, on the images of an earlier one.
type EarlierRequest struct {
	ID string `json:"id"`
	Score
	Regained int64 `json:"regained" jsonschema:"minimum=0,description=images that had not their label when that request ended\\, and have it now"`
}

// EvalSchema is the schema name of EvalResult.
const EvalSchema = "unlearn.eval/1"

// EvalResult is what `unlearn eval` writes for each of its --weights: a score for each split that was asked for.
type EvalResult struct {
	Schema     string      `json:"schema" jsonschema:"enum=unlearn.eval/1"`
	Model      string      `json:"model,omitempty"`
	Weights    string      `json:"weights,omitempty" jsonschema:"description=the file\\, where several were scored in one pass"`
	Origin     *Origin     `json:"origin,omitempty" jsonschema:"description=of the weights"`
	Dataset    string      `json:"dataset,omitempty"`
	Train      *Score      `json:"train,omitempty"`
	Test       *Score      `json:"test,omitempty"`
	Forget     *Score      `json:"forget,omitempty"`
	Retain     *Score      `json:"retain,omitempty"`
	Hashes     Hashes      `json:"hashes"`
	Device     string      `json:"device"`
	Precision  string      `json:"precision,omitempty" jsonschema:"enum=fp32,enum=tf32,description=as in unlearn.result/1"`
	Mode       engine.Mode `json:"mode,omitempty" jsonschema:"enum=exact,enum=reference,description=as in unlearn.result/1"`
	Fallback   string      `json:"fallback,omitempty" jsonschema:"description=as in unlearn.result/1"`
	Limited    bool        `json:"limited"`
	Preprocess string      `json:"preprocess,omitempty" jsonschema:"description=as in unlearn.result/1"`
	Guessed    []string    `json:"guessed,omitempty" jsonschema:"description=as in unlearn.result/1"`
	Warnings   []string    `json:"warnings,omitempty" jsonschema:"description=as in unlearn.result/1"`
	Seconds    float64     `json:"seconds" jsonschema:"minimum=0"`
	Versions   Versions    `json:"versions"`
}

//go:embed schema/result-1.json
var resultSchema []byte

//go:embed schema/eval-1.json
var evalSchema []byte

//go:embed schema/continual-1.json
var continualSchema []byte

//go:embed schema/record-1.json
var recordSchema []byte

// ContinualJSONSchema returns the published JSON Schema of ContinualResult.
func ContinualJSONSchema() []byte { return continualSchema }

// RecordJSONSchema returns the published JSON Schema of a line of a deletion record.
func RecordJSONSchema() []byte { return recordSchema }

// ResultJSONSchema returns the published JSON Schema of Result.
func ResultJSONSchema() []byte { return resultSchema }

// EvalJSONSchema returns the published JSON Schema of EvalResult.
func EvalJSONSchema() []byte { return evalSchema }
