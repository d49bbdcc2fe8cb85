"""What `--help` says: what the program is for, and examples of each command."""

ABOUT = "Prune a trained network or a posterior, see how far it can go, and report it."
EXAMPLES = {
    "": """\
  bmrpruner inspect posterior.npz
  bmrpruner prune posterior.npz --algorithm global_snr --sparsity .9 --out pruned.npz
  bmrpruner compact pruned.npz --input-shape 784 --out small.npz
  bmrpruner sweep posterior.npz --data mnist/ --out results/
  bmrpruner report results/""",
    "inspect": """\
  bmrpruner inspect posterior.npz
  bmrpruner inspect checkpoint.safetensors --json | jq .weights
  bmrpruner inspect posterior.npz --prior-precision 10     # ΔF for the prior N(0, 1/10)""",
    "prune": """\
  bmrpruner prune posterior.npz --algorithm global_snr --sparsity .9 --out pruned.npz
  bmrpruner prune posterior.npz --algorithm snr --threshold 1 --out pruned.safetensors --packed
  bmrpruner prune posterior.npz --evidence --exclude 'head/*' --out pruned.npz
  bmrpruner prune posterior.npz --evidence --temperature .1 --out pruned.npz
  bmrpruner prune net.npz --algorithm global_obs --data mnist/ --sparsity .95 --out pruned.npz
  bmrpruner prune net.npz --algorithm obs --model mynet:forward --data new.npz \\
    --max-loss-rise .01 --out pruned.npz                   # labels too: x and y
  bmrpruner prune checkpoint.safetensors --algorithm magnitude --type 2:4 --out pruned.npz
  bmrpruner prune @args.txt --force                        # options from a file, and one more""",
    "compact": """\
  bmrpruner prune posterior.npz --evidence --type channel_-1 --out pruned.npz
  bmrpruner compact pruned.npz --input-shape 784 --out small.npz
  bmrpruner compact pruned.npz --model mynet:forward --input-shape 28,28,1 --out small.npz
  bmrpruner compact pruned.npz --data mnist/ --out small.npz --picture shapes.png --json
  bmrpruner compact pruned.npz --input-shape 784 --out small.npz --export small.jaxexport
  bmrpruner report small.npz                               # small.html""",
    "sweep": """\
  bmrpruner sweep posterior.npz --data mnist/ --out results/
  bmrpruner sweep net.npz --model mynet:forward --data test.npz --ood other.npz --out results/
  bmrpruner sweep posterior.npz --data mnist/ --thresholds snr=.5,bmr=0 --out results/
  bmrpruner sweep posterior.npz --data mnist/ --temperature .1 --out results/
  bmrpruner sweep net.npz --data test.npz --calibration train.npz --algorithms global_obs,wanda \\
    --out results/
  bmrpruner sweep --config sweep.yaml --resume             # after Ctrl-C""",
    "report": """\
  bmrpruner report results/
  bmrpruner report small.npz                               # what compact wrote
  bmrpruner report results/ --out study.html --force""",
}
