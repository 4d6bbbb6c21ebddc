package report

import (
	"fmt"
	"html/template"

	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

// imageView is one forgotten image.
type imageView struct {
	Index                              int
	Label, Target                      string
	Before, After                      string // class and confidence
	Forgotten                          bool
	Picture, Adversarial, Perturbation template.URL
	Example                            string // about the adversarial example
}

// maxGallery is how many forgotten images are shown of each row.
const maxGallery = 8

// gallery shows the first forgotten images of a run that have pictures.
func gallery(r *results.Run, left *budget) (images []imageView, err error) {
	p, err := r.Predictions()
	if err != nil || p == nil {
		return nil, err
	}
	folder, err := results.OpenFolder(r.Path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	for _, image := range p.Images[:min(len(p.Images), maxGallery)] {
		v := imageView{
			Index: image.Index, Label: class(p, image.Label), Before: said(p, image.Before), After: said(p, image.After),
			Forgotten: image.After != nil && image.After.Class != image.Label,
		}
		if image.Target != nil {
			v.Target = class(p, *image.Target)
		}
		if image.Picture != "" {
			v.Picture = picture(folder, image.Picture, left)
		}
		if a := image.Adversarial; a != nil && v.Picture != "" {
			v.Adversarial, v.Perturbation = picture(folder, a.Picture, left), picture(folder, a.Perturbation, left)
			v.Example = fmt.Sprintf("attacked towards %s, seen as %s; perturbation of L2 norm %.3g", class(p, a.Target), class(p, a.Class), a.Norm)
		}
		images = append(images, v)
	}
	return images, nil
}

// class names a class, by its number where it has no name.
func class(p *run.Predictions, i int) string {
	if i >= 0 && i < len(p.Classes) && p.Classes[i] != "" {
		return p.Classes[i]
	}
	return fmt.Sprintf("class %d", i)
}

func said(p *run.Predictions, s *run.Prediction) string {
	if s == nil {
		return "not recorded"
	}
	return fmt.Sprintf("%s (%.1f %%)", class(p, s.Class), 100*float64(s.Probability))
}
