package ckpt

import (
	"strings"

	"l2ul/torch/ckpt/pickle"
)

// wrappers are the keys under which training scripts put the weights.
var wrappers = []string{"state_dict", "model_state_dict", "model_state", "model", "net", "network", "module"}

// weight is an entry of a state dict.
type weight struct {
	name string
	*view
}

// findWeights looks for a state dict or a network that was pickled whole: the root itself, or what stands under one of the
// usual keys.
func findWeights(root any) (weights []weight, format Format, err error) {
	format.Container = PT
	if dict, ok := root.(*pickle.Dict); ok {
		for _, key := range wrappers {
			v, _ := dict.Get(key)
			if _, module := moduleOf(v); !module && !isStateDict(v) {
				continue
			}
			if format.Wrapper != "" {
				return nil, format, corrupt("holds several networks, under %q and %q; save the one that is meant alone", format.Wrapper, key)
			}
			format.Wrapper, root = key, v
		}
	}
	if attributes, ok := moduleOf(root); ok {
		format.Class = typeName(root)
		w := walk{left: maxWalk}
		err = w.module("", attributes)
		return w.weights, format, err
	}
	dict, ok := root.(*pickle.Dict)
	if !ok {
		return nil, format, corrupt("holds %s instead of a state dict; save model.state_dict()", typeName(root))
	}
	weights, err = stateDict(dict)
	return weights, format, err
}

// extraState ends the keys of what a module's get_extra_state() gives, tensor or not.
const extraState = "_extra_state"

// stateDict returns the tensors of a dict that holds no other values.
func stateDict(dict *pickle.Dict) (weights []weight, err error) {
	for key, value := range dict.All() {
		name, ok := pickle.Text(key)
		if !ok {
			return nil, corrupt("is no state dict: one of its keys is %s", typeName(key))
		}
		v, ok := value.(*view)
		if !ok && strings.HasSuffix(name, extraState) {
			continue
		}
		if !ok {
			return nil, corrupt("is no state dict: entry %.100q is %s, not a tensor, and none of the entries %q is a dict of tensors",
				name, typeName(value), wrappers)
		}
		weights = append(weights, weight{name, v})
	}
	return weights, nil
}

// isStateDict reports whether v is a dict from strings to tensors, with one at least.
func isStateDict(v any) bool {
	d, ok := v.(*pickle.Dict)
	if !ok {
		return false
	}
	weights, err := stateDict(d)
	return err == nil && len(weights) > 0
}

func typeName(v any) string {
	switch v.(type) {
	case *view:
		return "torch.Tensor"
	case *storage:
		return "torch.Storage"
	}
	return pickle.TypeName(v)
}

// compiledClass is what torch.compile puts around a network, pickled as a call with the network.
const compiledClass = "torch._dynamo.eval_frame.OptimizedModule"

// moduleOf returns the attributes of a torch.nn.Module.
func moduleOf(v any) (attributes *pickle.Dict, ok bool) {
	o, ok := v.(*pickle.Object)
	if ok && o.Class == compiledClass && len(o.Args) > 0 {
		o, ok = o.Args[0].(*pickle.Object)
	}
	if !ok {
		return nil, false
	}
	attributes, ok = o.State.(*pickle.Dict)
	if !ok {
		return nil, false
	}
	for _, key := range []string{"_parameters", "_buffers", "_modules"} {
		member, _ := attributes.Get(key)
		if _, ok := member.(*pickle.Dict); !ok {
			return nil, false
		}
	}
	return attributes, true
}

// maxWalk bounds what the tensors of modules may take. Modules may share others, and even contain themselves, so that a few
// hundred bytes can stand for any number of tensors.
const (
	maxWalk  = 4 << 20
	costName = 128
	maxName  = 1 << 10 // of a module; it bounds the depth as well
)

// walk collects what Module.state_dict() would return, in its order and under its names.
type walk struct {
	weights []weight
	left    int
}

// take pays for one name.
func (w *walk) take(name string) error {
	w.left -= len(name) + costName
	if w.left < 0 || len(name) > maxName {
		return corrupt("has modules inside each other without end, at %.100q", name)
	}
	return nil
}

func (w *walk) module(prefix string, attributes *pickle.Dict) error {
	member := func(key string) *pickle.Dict {
		v, _ := attributes.Get(key)
		return v.(*pickle.Dict) // moduleOf has seen to it
	}
	// each calls do for the entries of a member, but for those that are None.
	each := func(key string, do func(name string, v any) error) error {
		for k, v := range member(key).All() {
			short, ok := pickle.Text(k)
			if !ok {
				return corrupt("module %.100q has %s for a name in %s", prefix, typeName(k), key)
			}
			if err := w.take(prefix + short); err != nil {
				return err
			}
			if v == nil {
				continue
			}
			if err := do(prefix+short, v); err != nil {
				return err
			}
		}
		return nil
	}
	tensor := func(name string, v any) error {
		t, ok := v.(*view)
		if !ok {
			return corrupt("%.100q is %s, not a tensor", name, typeName(v))
		}
		w.weights = append(w.weights, weight{name, t})
		return nil
	}
	if err := each("_parameters", tensor); err != nil {
		return err
	}
	passing := map[string]bool{} // buffers that a state dict leaves out
	if v, _ := attributes.Get("_non_persistent_buffers_set"); v != nil {
		set, _ := v.(*pickle.Set)
		if set == nil {
			return corrupt("module %.100q has %s for its _non_persistent_buffers_set", prefix, typeName(v))
		}
		for _, item := range set.Items {
			short, _ := pickle.Text(item)
			if err := w.take(prefix + short); err != nil {
				return err
			}
			passing[prefix+short] = true
		}
	}
	if err := each("_buffers", func(name string, v any) error {
		if passing[name] {
			return nil
		}
		return tensor(name, v)
	}); err != nil {
		return err
	}
	return each("_modules", func(name string, v any) error {
		inner, ok := moduleOf(v)
		if !ok {
			return corrupt("%.100q is %s, not a module", name, typeName(v))
		}
		return w.module(name+".", inner)
	})
}
