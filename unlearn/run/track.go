package run

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"l2ul/unlearn/track"
	"l2ul/unlearn/weights"
)

// TrackOptions say who else is told the numbers of a run.
type TrackOptions struct {
	TensorBoard bool   `flag:"tensorboard" result:"no" help:"write event files for TensorBoard into tb/ of the run folder"`
	MLflow      string `flag:"mlflow" config:"no" arg:"auto|URL" help:"tell an MLflow server of the run; auto: the one of MLFLOW_TRACKING_URI"`
}

// mlflowAddress is that of the server, "" for none.
func (o *TrackOptions) mlflowAddress() (string, error) {
	address := o.MLflow
	if address == "auto" {
		if address = os.Getenv("MLFLOW_TRACKING_URI"); address == "" {
			return "", errors.New("--mlflow auto: MLFLOW_TRACKING_URI is not set")
		}
	}
	if address == "" {
		return "", nil
	}
	if err := track.CheckMLflow(address); err != nil {
		return "", fmt.Errorf("--mlflow: %w", err)
	}
	return address, nil
}

// checkTracking refuses a server where no connection is to be opened.
func (inv *Invocation) checkTracking(o TrackOptions) error {
	offline, _, _ := inv.Config.Get("offline")
	if o.MLflow != "" && (offline.Plain() == true || weights.HubOffline()) {
		return Usagef("--mlflow opens connections, and --offline or HF_HUB_OFFLINE forbids them: leave one of them out")
	}
	return nil
}

// mlflowFile holds what a server has of the run.
const mlflowFile = "mlflow.json"

// track makes the console hand the numbers of a run to whom the options name.
func (inv *Invocation) track(f *Folder, o FolderOptions) error {
	if o.TensorBoard {
		before, err := saidBefore(f.Path("metrics.jsonl"))
		if err != nil {
			return err
		}
		board, err := track.OpenTensorBoard(f.Path("tb"), time.Now(), before)
		if err != nil {
			return fmt.Errorf("--tensorboard: %w", err)
		}
		inv.Console.track(board)
	}
	address, err := o.mlflowAddress()
	if err != nil || address == "" {
		return err
	}
	var state track.MLflowState
	if text, err := os.ReadFile(f.Path(mlflowFile)); err == nil {
		if err := json.Unmarshal(text, &state); err != nil {
			return Inputf("%s: %w", f.Path(mlflowFile), err)
		}
	}
	settings, tags := map[string]string{}, map[string]string{"unlearn.verb": inv.Config.Spec.Verb, "unlearn.config": f.ConfigHash()}
	for _, field := range inv.Config.Fields() {
		if v, _, _ := inv.Config.Get(field.Name); field.Key {
			settings[field.Name] = v.String()
		}
	}
	for _, tag := range o.Tags {
		key, value, _ := strings.Cut(tag, "=")
		tags[key] = value
	}
	inv.Console.track(track.StartMLflow(track.MLflowOptions{
		URL: address, Token: os.Getenv("MLFLOW_TRACKING_TOKEN"), Name: cmp.Or(o.Name, filepath.Base(f.Path())), Tags: tags, Params: settings, State: state,
		Saved: func(s track.MLflowState) {
			if err := WriteJSON(f.Path(mlflowFile), s); err != nil {
				inv.Console.Log().Debug().Err(err).Msg("what MLflow has is not kept: a resumed run will tell it again")
			}
		},
		Warn: inv.Console.Warn,
	}))
	return nil
}

// saidBefore reads the numbers of earlier starts of a run.
func saidBefore(path string) (points []track.Point, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	for line := range bytes.Lines(text) {
		var m struct {
			Time   time.Time
			Phase  string
			Step   int64
			Values map[string]*float64
		}
		if json.Unmarshal(line, &m) != nil {
			continue // cut short by a crash
		}
		p := track.Point{Time: m.Time, Phase: m.Phase, Step: m.Step, Values: map[string]float64{}}
		for name, x := range m.Values {
			if x != nil {
				p.Values[name] = *x
			}
		}
		points = append(points, p)
	}
	return points, nil
}

// trackedOf returns what those who are told of a run learn from an event; ok is false for nothing.
func trackedOf(e Event, now time.Time) (p track.Point, ok bool) {
	p = track.Point{Time: now, Values: map[string]float64{}}
	switch e := e.(type) {
	case Metric:
		p.Phase, p.Step = e.Phase, e.Step
		for name, x := range e.Values {
			p.Values[name] = float64(x)
		}
	case Summary: // the scores
		text, err := json.Marshal(e.Result)
		var result any
		if err != nil || json.Unmarshal(text, &result) != nil {
			return p, false
		}
		p.Phase = "result"
		collectScores("", result, p.Values)
	}
	return p, len(p.Values) > 0
}

// collectScores takes accuracy and loss of every score in a result, under the names of where it stands.
func collectScores(name string, v any, into map[string]float64) {
	object, _ := v.(map[string]any)
	if accuracy, ok := object["accuracy"].(float64); ok {
		into[name+"accuracy"] = accuracy
		if loss, ok := object["loss"].(float64); ok {
			into[name+"loss"] = loss
		}
		return
	}
	for key, below := range object {
		collectScores(name+key+".", below, into)
	}
}
