"""A worked example for every command: what to type, and what comes of it."""

EXAMPLES = {
    "softrsa": """\
example:
  softrsa align --demo --transform identity,geo_topological --out results/
  softrsa report results/result.nc --out results/report.html
  softrsa datasets list
  softrsa COMMAND --help      every command has an example of its own
""",
    "align": """\
example, simulated data:
  $ softrsa align --demo --transform identity,geo_topological --out results/
  writes report.html (open it first), scores.csv, result.nc and alignment.png, and says
    early: best layer layer1 (geo_topological 0.866, noise ceiling 0.874 to 0.930)
    ...

real images and a pretrained network (extra `demo`):
  $ softrsa align --dataset kriegeskorte92 --model efficientnet-lite0 --out results/

your own files, joined by stimulus id:
  $ softrsa align LAYERS.nc RECORDINGS.nc --by layer --region region --subject subject \\
        --transform identity,geo_topological,global,instance --folds 5 --out results/
""",
    "report": """\
example, after `softrsa align ... --out results/`:
  $ softrsa report results/result.nc --title "ResNet and IT" --images stimuli/
  The report is /home/you/results/report.html
  stimuli/ has a picture for each stimulus, named by its id: face_01.png for face_01
""",
    "identify": """\
example, simulated networks:
  $ softrsa identify --demo --transform identity,centered --out results-identify/
  writes accuracies.csv, by_subject.csv, identification.png, result.nc

RDMs of your own, with the dimensions (region, subject, anchor, neighbor):
  $ softrsa identify RDMS.nc --noise 0,0.5,1 --out results-identify/
""",
    "optimize": """\
example, simulated data:
  $ softrsa optimize --demo --measure nbs,linear_cka --target 0.9 --out results-optimize/
  writes a result per measure, components.csv, components.png and scores.png

neurons, and one measure; goes on where it stopped:
  $ softrsa optimize --dataset macaque-v4 --region V4 --measure nbs --target 0.95 \\
        --resume --out results-v4/
""",
    "predict": """\
example, a small data set of scikit-learn:
  $ softrsa predict --data diabetes --heads linear,ridge,nca --splits 3 --out results-predict/
  writes rows.csv (a row per head and split), table.csv, errors.png, ranks.png

the best settings of one head:
  $ softrsa predict --data diabetes --heads nca --search --out results-search/
""",
    "datasets": """\
example:
  $ softrsa datasets list
  $ softrsa datasets fetch kriegeskorte92
  kriegeskorte92: 3 files in /home/you/.cache/softrsa/datasets/kriegeskorte92
  $ softrsa datasets verify kriegeskorte92
  status  dataset         file
  ok      kriegeskorte92  kriegeskorte92/92_brainRDMs.mat
  ...

environment:
  SOFTRSA_DATA     a folder where data may already lie; files put there by hand are found
  SOFTRSA_CACHE    where downloads go (by default the system's cache)
  SOFTRSA_MIRROR   a folder or an address with a copy of the files, to work without the network:
                   each file at its path on the card, e.g. kriegeskorte92/92_brainRDMs.mat
""",
    "completion": """\
example:
  bash:  softrsa completion bash > ~/.local/share/bash-completion/completions/softrsa
  zsh:   softrsa completion zsh > "${fpath[1]}/_softrsa"
  fish:  softrsa completion fish > ~/.config/fish/completions/softrsa.fish
  tcsh:  softrsa completion tcsh > ~/.softrsa.csh, and source it
""",
}
