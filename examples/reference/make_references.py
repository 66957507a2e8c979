"""Reference solutions of the PDE examples, by spectral methods in float64, with an estimate of their error.

- Burgers: the solution stays odd and periodic, u = sum_k b_k(t) sin(pi k x). Pseudo-spectral in space, without
  aliases (the 2/3 rule); exact for the viscous term and of fourth order in time for the rest (RK4 on
  exp(nu pi^2 k^2 t) b_k). It is compared with the exact solution by the Cole-Hopf transform, integrals by
  Gauss-Hermite quadrature.
- Nonlinear Schroedinger: split steps between exp(i |h|^2 t), exact, and the dispersion, exact in Fourier space,
  composed to fourth order (Yoshida 1990). What is stored is compared with twice the step and a quarter of the points.
  The slope of 2 sech(x) jumps at the periodic boundary, so that the error falls with a power of their number only.

    python examples/reference/make_references.py    # writes burgers.npz and schroedinger.npz beside it
"""

# %%
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
VISCOSITY = 0.01 / np.pi


# %% Burgers: u_t + u u_x = nu u_xx on [-1, 1], u(0, x) = -sin(pi x)
def burgers(times, points=2048, steps=2000):
    """The solution at `times` on a grid of `points` values of x in [-1, 1), by RK4 with `steps` steps up to time 1."""
    k = np.pi * np.fft.rfftfreq(points, 1 / points)
    x = -1 + 2 * np.arange(points) / points
    inside = np.arange(len(k)) < points // 3
    slope = lambda b: -0.5j * k * np.where(inside, np.fft.rfft(np.fft.irfft(b, points) ** 2), 0)
    b, now, found = np.fft.rfft(-np.sin(np.pi * x)), 0.0, []
    for time in times:
        count = round((time - now) * steps)
        assert abs(now + count / steps - time) < 1e-12
        half = np.exp(-VISCOSITY * k**2 / steps / 2)
        for _ in range(count):
            k1 = slope(b) / steps
            k2 = slope(half * (b + k1 / 2)) / steps
            k3 = slope(half * b + k2 / 2) / steps
            k4 = slope(half**2 * b + half * k3) / steps
            b = half**2 * (b + k1 / 6) + half * (k2 + k3) / 3 + k4 / 6
        now = time
        found.append(np.fft.irfft(b, points))
    return x, np.array(found)


def cole_hopf(time, x, nodes=128):
    """The exact solution at one time > 0."""
    z, w = np.polynomial.hermite.hermgauss(nodes)
    y = x[:, None] - 2 * np.sqrt(VISCOSITY * time) * z
    exponent = -np.cos(np.pi * y) / (2 * np.pi * VISCOSITY)
    f = w * np.exp(exponent - exponent.max(1, keepdims=True))
    return -np.sum(np.sin(np.pi * y) * f, 1) / np.sum(f, 1)


# %% Schroedinger: i h_t + h_xx / 2 + |h|^2 h = 0 on [-5, 5], periodic, h(0, x) = 2 sech(x)
def schroedinger(times, points=512, steps=2000):
    """The solution at `times`, multiples of pi/2 / steps, on `points` values of x in [-5, 5)."""
    step = np.pi / 2 / steps
    k = 2 * np.pi / 10 * np.fft.fftfreq(points, 1 / points)
    x = -5 + 10 * np.arange(points) / points
    cube = 2 ** (1 / 3)
    weights = np.array([1, -cube, 1]) / (2 - cube)
    dispersions = [np.exp(-0.5j * k**2 * step * weight) for weight in weights]
    h, done, found = 2 / np.cosh(x) + 0j, 0, []
    for time in times:
        target = round(time / step)
        assert abs(target * step - time) < 1e-12
        for _ in range(target - done):
            for weight, dispersion in zip(weights, dispersions, strict=True):
                h = h * np.exp(0.5j * step * weight * np.abs(h) ** 2)
                h = np.fft.ifft(dispersion * np.fft.fft(h))
                h = h * np.exp(0.5j * step * weight * np.abs(h) ** 2)
        done = target
        found.append(h)
    return x, np.array(found)


def conserved(h, points):
    """Mass and energy at each time."""
    k = 2 * np.pi / 10 * np.fft.fftfreq(points, 1 / points)
    slope = np.fft.ifft(1j * k * np.fft.fft(h, axis=-1), axis=-1)
    mean = lambda f: 10 * np.mean(f, axis=-1)
    return mean(np.abs(h) ** 2), mean(np.abs(slope) ** 2 - np.abs(h) ** 4) / 2


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# %%
def main():
    times = np.arange(101) / 100
    x, u = burgers(times)
    exact = np.array([cole_hopf(time, x) for time in times[1:]])
    off, largest = relative(u[1:], exact), np.abs(u[1:] - exact).max()
    print(f"burgers: relative L2 distance from Cole-Hopf {off:.1e}, largest {largest:.1e}")
    u = np.concatenate([u, u[:, :1]], 1)[:, ::8]  # x = 1 is x = -1
    np.savez_compressed(HERE / "burgers.npz", t=times, x=np.append(x, 1.0)[::8], u=u)

    times = np.pi / 2 * np.arange(101) / 100
    x, h = schroedinger(times)
    _, fine = schroedinger(times, 2048, 4000)
    mass, energy = conserved(h, 512)
    off = relative(h, fine[:, ::4])
    print(f"schroedinger: relative L2 distance from twice the step and a quarter of the points {off:.1e}")
    print(f"schroedinger: drift of mass {np.ptp(mass) / mass[0]:.1e}, of energy {abs(np.ptp(energy) / energy[0]):.1e}")
    h = np.concatenate([fine, fine[:, :1]], 1)[:, ::16]
    np.savez_compressed(HERE / "schroedinger.npz", t=times, x=np.append(x, 5.0)[::4], h=h)


if __name__ == "__main__":
    main()
