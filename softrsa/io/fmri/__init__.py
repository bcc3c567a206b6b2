"""Images of fMRI: volumes and surfaces, time series and betas."""
